/** Where articles come from: how far that is read, what could not be read, and taking something out. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { isUnderWay, jobProgress } from './page_jobs.js';
import { t, word } from './strings.js';
import { address, ask, badge, button, card, empty, link, live, number, table, when } from './ui.js';

/** With more than so many, the rest of the page would be far away. */
const SHOWN = 20;
/** And more than these the server does not list. */
const MOST = 1000;
const UPLOAD = 'upload:';

/** @param {(found: any) => void} onFound hears what came, whenever it has changed */
export function sourceList(mayChange, onFound) {
  const node = h('div');
  let most = SHOWN;
  const refresh = live(node, () => get(`sources?most=${most}`), (found) => {
    onFound(found);
    const all = () => {
      most = MOST;
      refresh(true);
    };
    return draw(found, most, mayChange, refresh, all);
  }, ({ underWay }) => underWay.some(isUnderWay));
  return { node, refresh };
}

function draw({ sources, count, underWay, ended, unreadable, numUnreadable }, most, mayChange, refresh, all) {
  const parts = underWay.map(reading);
  if (!underWay.length && ended) parts.push(...howItEnded(ended));
  if (numUnreadable) parts.push(notRead(unreadable, numUnreadable));
  if (!sources.length) return [...parts, ...(underWay.length ? [] : [nothingYet(mayChange)])];
  const rest = count > sources.length && most < MOST
    ? [h('p', {}, button(t('showAllSources', { count: number(count) }), all))] : [];
  return [...parts, card(t('comeFrom'), sourceTable(sources, mayChange, refresh), ...rest)];
}

function nothingYet(mayChange) {
  if (!mayChange) return empty(t('noArticlesViewer'));
  const node = empty(t('noArticlesYet'));
  node.append(' ', h('code', {}, 'myna kb add FOLDER'));
  return node;
}

function reading(job) {
  const { step, file } = job.progress ?? {};
  const count = step === undefined ? [] : [h('p', { class: 'muted' }, t('readSoFar', { count: number(step) }))];
  const now = file ? [h('p', { class: 'muted break' }, file)] : [];
  return h('section', { class: 'card' }, jobProgress(job), ...count, ...now);
}

function howItEnded({ id, state, error }) {
  if (state === 'done') return [];
  const why = state === 'cancelled' ? t('readingCancelled') : [t('readingFailed'), error].filter(Boolean).join(' ');
  return [h('p', { class: 'problem' }, why, ' ', link('jobs', t('details'), id))];
}

function notRead(unreadable, count) {
  const rows = unreadable.map(({ file, why }) => h('li', { class: 'break' }, h('strong', {}, nameOf(file)),
    `: ${why}`));
  const more = count - unreadable.length;
  if (more > 0) rows.push(h('li', { class: 'muted' }, t('andMore', { count: number(more) })));
  return h('details', { class: 'card', 'data-key': 'not-read' },
    h('summary', { 'data-key': 'not-read-summary' }, t('notRead', { count: number(count) })),
    h('p', { class: 'muted' }, t('notReadMeans')), h('ul', { class: 'reasons' }, ...rows));
}

function sourceTable(sources, mayChange, refresh) {
  /** @type {import('./ui.js').Column[]} */
  const columns = [
    { name: t('location'), cell: ({ location }) => address(nameOf(location)) },
    { name: t('sourceKind'), cell: ({ kind }) => word('sourceKind', kind) },
    { name: t('audience'), cell: ({ audience }) => word('audience', audience) },
    { name: t('addedBy'), cell: ({ addedBy }) => addedBy },
    { name: t('lastRead'), cell: ({ readAt }) => (readAt ? when(readAt) : badge(t('notReadYet'))) },
  ];
  if (mayChange) columns.push({ name: '', cell: (source) => removal(source, refresh), kind: 'end' });
  return table(t('comeFrom'), columns, sources);
}

/** An upload lies nowhere: its name is all there is to say. */
export function nameOf(location) {
  return location.startsWith(UPLOAD) ? location.slice(UPLOAD.length) : location;
}

function removal({ id, location }, refresh) {
  const name = nameOf(location);
  const remove = button(t('removeSource'), () => askToRemove(id, name, refresh), 'small danger-line');
  remove.setAttribute('aria-label', t('removeSourceOf', { name }));
  return remove;
}

async function askToRemove(id, name, refresh) {
  const done = await ask({
    title: t('removeSourceTitle', { name }), lines: [t('removeSourceMeans')], action: t('removeSource'), danger: true,
    success: t('sourceRemoved'), act: () => post(`sources/${encodeURIComponent(id)}/remove`),
  });
  if (done) refresh(true);
}
