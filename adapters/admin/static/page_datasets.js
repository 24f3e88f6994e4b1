/** What models were trained on: how many of what, from where, what was left out and why. */

import { h } from '/static/dom.js';
import { get } from './api.js';
import { said, talk } from './page_feedback.js';
import { t, word } from './strings.js';
import { attempt, badge, button, card, empty, facts, link, live, number, progress, select, settings, table,
  when } from './ui.js';

/** @typedef {import('./strings.js').Kind} Kind */

export function datasetsPage(context) {
  const [id, other] = context.params;
  return id ? onePage(id, other, context) : listPage(context);
}

/** What is there already can be learnt from, too. */
export function importHint() {
  return h('p', { class: 'muted hint' }, t('importHint'), ' ', h('code', {}, 'myna import FILE'));
}

function listPage({ may }) {
  const list = h('div');
  const node = h('div', {}, ...(may('trainer') ? [importHint()] : []), list);
  const refresh = live(list, () => get('datasets'),
    ({ datasets }) => (datasets.length ? draw(datasets) : empty(t('noDatasets'))));
  return { node, refresh };
}

function draw(datasets) {
  return table(word('page', 'datasets'), [
    { name: t('dataset'), cell: ({ id, sha256 }) => link('datasets', sha256.slice(0, 12), id) },
    { name: t('examples'), cell: ({ counts }) => number(counts.examples), kind: 'number' },
    { name: t('heldOut'), cell: ({ counts }) => number(sum(counts.splits?.held_out)), kind: 'number' },
    { name: t('leftOut'), cell: ({ counts }) => number(sum(counts.rejected)), kind: 'number' },
    { name: t('people'), cell: ({ counts }) => number(counts.people), kind: 'number' },
    { name: t('who'), cell: ({ createdBy }) => createdBy },
    { name: t('created'), cell: ({ createdAt }) => when(createdAt) },
  ], datasets);
}

function sum(counts) {
  return Object.values(counts ?? {}).reduce((total, one) => total + one, 0);
}

function onePage(id, other, { may, setHeading }) {
  const node = h('div');
  let isLoaded = false;
  /** A dataset never changes. */
  async function refresh() {
    if (isLoaded) return;
    const [{ dataset }, { datasets }] = await Promise.all([get(`datasets/${encodeURIComponent(id)}`), get('datasets')]);
    isLoaded = true;
    setHeading(`${t('dataset')} ${dataset.sha256.slice(0, 12)}`);
    const back = h('p', {}, link('datasets', t('allDatasets')));
    node.replaceChildren(back, ...countCards(dataset), diffCard(dataset, datasets, other),
      ...(may('agent') ? [exampleCard(dataset), rejectedCard(dataset)] : []));
  }
  return { node, refresh };
}

function countCards({ counts, createdBy, createdAt, settings: used }) {
  /** @param {string} title @param {Record<string, number>|undefined} values @param {Kind|'because'} kind */
  const bars = (title, values, kind) => card(title, barList(values, kind));
  const splits = Object.fromEntries(Object.entries(counts.splits ?? {}).map(([side, one]) => [side, sum(one)]));
  return [
    card(t('counts'), facts([[t('examples'), number(counts.examples)],
      [t('conversations'), number(counts.conversations)], [t('people'), number(counts.people)],
      [t('thumbUp'), number(counts.good)], [t('thumbDown'), number(counts.bad)], [t('who'), createdBy],
      [t('created'), when(createdAt)]])),
    h('div', { class: 'cards' }, bars(t('kinds'), counts.kinds, 'example'),
      bars(t('sources'), counts.sources, 'source'),
      bars(t('splits'), splits, 'split')),
    h('div', { class: 'cards' }, bars(t('answerLengths'), counts.answer_chars, 'chars'),
      bars(t('promptLengths'), counts.prompt_chars, 'chars')),
    bars(t('leftOutBecause'), counts.rejected, 'because'),
    card(t('settings'), facts(settings(used))),
  ];
}

/**
 * Why something was left out has no other words than the server's.
 * @param {Kind|'because'} kind
 * @param {string} name
 */
function kindWords(kind, name) {
  return kind === 'because' ? name.replaceAll('_', ' ') : word(kind, name);
}

/** @param {Record<string, number>|undefined} values @param {Kind|'because'} kind */
function barList(values, kind) {
  const rows = Object.entries(values ?? {}).filter(([, count]) => count || kind === 'chars');
  if (!rows.length) return h('p', { class: 'muted' }, t('none'));
  const most = Math.max(...rows.map(([, count]) => count), 1);
  return h('ul', { class: 'bars' }, ...rows.map(([name, count]) => {
    const isLength = kind === 'chars' && name !== 'longer';
    const label = isLength ? t('upTo', { chars: number(Number(name)) }) : kindWords(kind, name);
    return h('li', {}, h('span', { class: 'break' }, label), progress(label, count / most),
      h('span', {}, number(count)));
  }));
}

function diffCard(dataset, datasets, other) {
  const others = datasets.filter(({ id }) => id !== dataset.id);
  if (!others.length) return card(t('diff'), h('p', { class: 'muted' }, t('noOtherDataset')));
  const options = others.map(({ id, sha256, counts }) => [id, `${sha256.slice(0, 12)} (${number(counts.examples)})`]);
  const input = select(options, other ?? others[0].id, { 'aria-label': t('diffWith') });
  const result = h('div');
  const compare = () => attempt(async () => {
    const found = await get(`datasets/${dataset.id}/diff/${input.value}`);
    result.replaceChildren(facts([[t('added'), number(found.added)], [t('removed'), number(found.removed)],
      [t('unchanged'), number(found.same)]]));
  });
  input.addEventListener('change', compare);
  return card(t('diff'), h('div', { class: 'row' }, h('div', { class: 'grow' }, input), button(t('compare'), compare)),
    result);
}

/** Pages of something, one after the other. */
function pages(path, key, title, show) {
  const list = h('div', { class: 'stack' });
  let after = null;
  const more = button(t('showMore'), async () => {
    await attempt(async () => {
      const rows = (await get(after === null ? path : `${path}?after=${after}`))[key];
      list.append(...rows.map(show));
      after = rows.at(-1)?.number ?? after;
      more.hidden = !rows.length;
      if (!rows.length && !list.childNodes.length) list.append(h('p', { class: 'muted' }, t('none')));
    });
  });
  return card(title, list, h('p', {}, more));
}

function exampleCard(dataset) {
  return pages(`datasets/${dataset.id}/examples`, 'examples', t('examples'), exampleRow);
}

function exampleRow({ number: place, example }) {
  const { kind, source, split, messages, chosen, rejected } = example;
  return h('details', {},
    h('summary', {}, badge(word('example', kind)), ' ', badge(word('source', source)), ' ', badge(word('split', split)),
      ` #${place} `, h('span', { class: 'muted break' }, chosen.slice(0, 90))),
    h('div', { class: 'talk' }, ...talk(messages),
      said('better', example.good === false ? t('thumbDown') : t('chosen'), chosen),
      ...(rejected ? [said('', t('rejectedAnswer'), rejected)] : [])));
}

function rejectedCard(dataset) {
  return pages(`datasets/${dataset.id}/rejected`, 'rejected', t('leftOut'), ({ row }) => h('p', { class: 'break' },
    badge(word('example', row.kind)), ' ', badge(word('source', row.source)), ` ${row.because} `,
      h('code', { class: 'muted' }, row.messageId.slice(0, 12))));
}
