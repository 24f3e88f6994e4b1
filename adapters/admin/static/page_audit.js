/** What was done and by whom, newest first, and whether the log is whole. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { t, word } from './strings.js';
import { attempt, badge, button, empty, live, table, when } from './ui.js';

// Every row there is gets hashed.
const VERIFY_TIMEOUT_MS = 300_000;

export function auditPage() {
  const verdict = h('span', { role: 'status' });
  const list = h('div');
  const more = button(t('older'), () => loadOlder());
  more.hidden = true;
  /** Rows by their number, which grows. */
  const known = new Map();
  const refresh = live(list, () => get('audit'), (found) => {
    const newest = Math.max(0, ...known.keys());
    // More than a page came meanwhile: what is known no longer joins on, and is fetched again when asked for.
    if (known.size && found.rows.at(-1).number > newest + 1) known.clear();
    if (!known.size) more.hidden = !found.more;
    return draw(found.rows);
  });

  function draw(rows) {
    rows.forEach((row) => known.set(row.number, row));
    const sorted = [...known.values()].sort((one, other) => other.number - one.number);
    return sorted.length ? auditTable(sorted) : empty(t('nothingDone'));
  }

  async function loadOlder() {
    await attempt(async () => {
      const found = await get(`audit?before=${Math.min(...known.keys())}`);
      more.hidden = !found.more;
      list.replaceChildren(draw(found.rows));
    });
  }

  async function verify() {
    await attempt(async () => {
      const { firstBroken } = await post('audit/verify', {}, VERIFY_TIMEOUT_MS);
      verdict.replaceChildren(firstBroken === null ? badge(t('logWhole'), 'good')
        : badge(t('logBroken', { number: firstBroken }), 'bad'));
    });
  }

  const head = h('div', { class: 'row' }, h('p', { class: 'muted grow' }, t('auditMeans')), verdict,
    button(t('verify'), verify));
  return { node: h('div', {}, head, list, h('p', {}, more)), refresh };
}

export function auditTable(rows) {
  return table(word('page', 'audit'), [
    { name: '#', cell: ({ number }) => String(number), kind: 'number' },
    { name: t('when'), cell: ({ createdAt }) => when(createdAt) },
    { name: t('who'), cell: ({ actor }) => actor },
    { name: t('what'), cell: ({ action }) => h('code', {}, action) },
    { name: t('target'), cell: ({ target }) => target && h('span', { class: 'break' }, target) },
    { name: t('details'), cell: ({ details }) => inWords(details)
      && h('span', { class: 'break muted' }, inWords(details)) },
  ], rows);
}

function inWords(details) {
  const said = (value) => (typeof value === 'string' ? value : JSON.stringify(value));
  return Object.entries(details ?? {}).map(([name, value]) => `${name}: ${said(value)}`).join(', ');
}
