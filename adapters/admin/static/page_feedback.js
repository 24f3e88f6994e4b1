/** Replies that somebody complained of, one after the other: approve, correct, exclude. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { t, word } from './strings.js';
import { attempt, badge, button, empty, field, notify } from './ui.js';

export function feedbackPage() {
  const node = h('div');
  const count = h('p', { class: 'muted grow' });
  /** What was written and not sent yet, by reply. */
  const drafts = new Map();
  /** @type {any[]} */
  let waiting = [];
  let at = 0;
  /** Where the next page begins; null where there is none. @type {string|null} */
  let cursor = null;
  let busy = false;
  /** Decided last, to be undone. @type {any} */
  let last = null;

  async function load() {
    waiting = [];
    await loadMore('feedback');
    at = Math.min(at, Math.max(waiting.length - 1, 0));
    draw();
  }

  async function loadMore(path) {
    const found = await get(path);
    cursor = found.more ? found.waiting.at(-1).cursor : null;
    const known = new Set(waiting.map(({ replyId }) => replyId));
    waiting.push(...found.waiting.filter(({ replyId }) => !known.has(replyId)));
  }

  /** New ones are looked for only while none is shown: what somebody reads must not move away. */
  async function refresh() {
    if (!waiting.length || !node.childNodes.length) await load();
  }

  async function decide(one, decision, body = {}) {
    if (!one || busy) return;
    busy = true;
    const done = await attempt(() => post(`feedback/${encodeURIComponent(one.replyId)}/${decision}`, body));
    busy = false;
    if (!done) return;
    last = one;
    notify(word('decided', decision), 'good', { label: t('undo'), onclick: () => undo(one) });
    drafts.delete(one.replyId);
    await remove(one);
  }

  /** Whoever has moved on meanwhile stays where they are. */
  async function remove(one) {
    const read = waiting[at];
    waiting = waiting.filter((other) => other !== one);
    at = Math.max(read === one ? Math.min(at, waiting.length - 1) : waiting.indexOf(read), 0);
    if (!waiting.length) await attempt(load);
    else if (read === one) draw(true);
    else tellCount();
  }

  async function undo(one = last) {
    if (!one || busy) return;
    busy = true;
    const done = await attempt(() => post(`feedback/${encodeURIComponent(one.replyId)}/withdraw`), t('undone'));
    busy = false;
    if (!done) return;
    if (last === one) last = null;
    waiting.splice(at, 0, one);
    draw(true);
  }

  async function move(by) {
    const wanted = at + by;
    if (wanted >= waiting.length && cursor && !busy) {
      busy = true;
      const path = `feedback?before=${encodeURIComponent(cursor)}`;
      await attempt(() => loadMore(path));
      busy = false;
    }
    at = Math.min(Math.max(wanted, 0), waiting.length - 1);
    draw(true);
  }

  function tellCount() {
    count.textContent = t('ofWaiting', { at: at + 1, all: cursor ? `${waiting.length}+` : waiting.length });
  }

  function draw(moveFocus = false) {
    if (!waiting.length) {
      node.replaceChildren(empty(t('nothingWaits')));
      return;
    }
    tellCount();
    const bar = h('div', { class: 'row' }, count,
      button(t('previousOne'), () => move(-1), 'small'), button(t('nextOne'), () => move(1), 'small'));
    const article = item(waiting[at], drafts, decide);
    node.replaceChildren(bar, article, h('p', { class: 'muted' }, ...keys()));
    if (moveFocus) article.focus();
  }

  function onKey(event) {
    const actions = {
      a: () => decide(waiting[at], 'approve'),
      c: () => node.querySelector('textarea')?.focus(),
      x: () => decide(waiting[at], 'exclude'),
      u: () => undo(),
      j: () => move(1),
      k: () => move(-1),
    };
    if (!actions[event.key] || !(waiting.length || event.key === 'u')) return;
    event.preventDefault();
    actions[event.key]();
  }

  return { node, refresh, onKey };
}

function keys() {
  const pairs = [['a', t('approve')], ['c', t('correct')], ['x', t('exclude')], ['u', t('undo')], ['j', t('nextOne')],
    ['k', t('previousOne')]];
  return pairs.flatMap(([key, name]) => [h('kbd', {}, key), ` ${name}   `]);
}

function item(one, drafts, decide) {
  const better = h('textarea', { rows: '4' });
  better.value = drafts.get(one.replyId) ?? one.proposed ?? '';
  const take = button(t('takeProposal'), () => decide(one, 'correct', { better: one.proposed }));
  const tellProposal = () => { take.hidden = !one.proposed || better.value === one.proposed; };
  tellProposal();
  better.addEventListener('input', () => {
    drafts.set(one.replyId, better.value);
    tellProposal();
  });
  better.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey) && !event.repeat) correct();
    if (event.key === 'Escape') better.closest('article')?.focus();
  });

  /** An empty text is no wish for what was proposed. */
  function correct() {
    if (better.value.trim()) {
      decide(one, 'correct', { better: better.value });
      return;
    }
    notify(t('betterMissing'), 'bad');
    better.focus();
  }

  const votes = one.votes.map(({ value, reason }) => h('li', {},
    badge(value > 0 ? t('thumbUp') : t('thumbDown'), value > 0 ? 'good' : 'bad'), ' ', reason ?? ''));
  return h('article', { class: 'card', tabindex: '-1', 'aria-label': t('reply') },
    h('div', { class: 'talk' }, said('user', t('asked'), one.question),
      said('', `${t('reply')} · ${one.channel}`, one.text)),
    h('ul', { class: 'plain' }, ...votes),
    field(one.proposed ? t('proposedAnswer') : t('betterAnswer'), better, t('betterHint')),
    h('div', { class: 'actions' }, button(t('exclude'), () => decide(one, 'exclude')),
      button(t('approve'), () => decide(one, 'approve')),
      take, button(t('correct'), correct, 'primary')));
}

/** What somebody said, with who. */
export function said(kind, who, text) {
  return h('div', { class: `said ${kind}`.trim(), dir: 'auto' }, ...(who ? [h('small', {}, who)] : []), text);
}

export function talk(messages) {
  return messages.map(({ role, content }) => said(role === 'user' ? 'user' : '', word('said', role), content));
}
