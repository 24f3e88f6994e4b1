/** Replies that somebody complained of, one after the other: approve, correct, exclude. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { t, word } from './strings.js';
import { attempt, badge, button, empty, field } from './ui.js';

export function feedbackPage() {
  const node = h('div');
  let waiting = [];
  let at = 0;
  let more = false;
  let busy = false;

  async function load() {
    const found = await get('feedback');
    waiting = found.waiting;
    more = found.more;
    at = Math.min(at, Math.max(waiting.length - 1, 0));
    draw();
  }

  /** New ones are looked for only while none is shown: what somebody reads must not move away. */
  async function refresh() {
    if (!waiting.length || !node.childNodes.length) await load();
  }

  async function decide(decision, body = {}) {
    const one = waiting[at];
    if (!one || busy) return;
    busy = true;
    const done = await attempt(() => post(`feedback/${encodeURIComponent(one.replyId)}/${decision}`, body), t(`decided_${decision}`));
    busy = false;
    if (!done) return;
    waiting.splice(at, 1);
    at = Math.min(at, Math.max(waiting.length - 1, 0));
    if (waiting.length) draw(true);
    else await attempt(load);
  }

  function move(by) {
    at = Math.min(Math.max(at + by, 0), waiting.length - 1);
    draw(true);
  }

  function draw(moveFocus = false) {
    if (!waiting.length) {
      node.replaceChildren(empty(t('nothingWaits')));
      return;
    }
    const count = t('ofWaiting', { at: at + 1, all: more ? `${waiting.length}+` : waiting.length });
    const bar = h('div', { class: 'row' }, h('p', { class: 'muted grow' }, count),
      button(t('previousOne'), () => move(-1), 'small'), button(t('nextOne'), () => move(1), 'small'));
    const article = item(waiting[at], decide);
    node.replaceChildren(bar, article, h('p', { class: 'muted' }, ...keys()));
    if (moveFocus) article.focus();
  }

  function onKey(event) {
    const actions = {
      a: () => decide('approve'),
      c: () => node.querySelector('textarea')?.focus(),
      x: () => decide('exclude'),
      j: () => move(1),
      k: () => move(-1),
    };
    if (!waiting.length || !actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  return { node, refresh, onKey };
}

function keys() {
  const pairs = [['a', t('approve')], ['c', t('correct')], ['x', t('exclude')], ['j', t('nextOne')], ['k', t('previousOne')]];
  return pairs.flatMap(([key, name]) => [h('kbd', {}, key), ` ${name}   `]);
}

function item(one, decide) {
  const better = h('textarea', { rows: '4' });
  better.value = one.proposed ?? '';
  better.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) decide('correct', { better: better.value });
    if (event.key === 'Escape') better.closest('article').focus();
  });
  const votes = one.votes.map(({ value, reason }) => h('li', {},
    badge(value > 0 ? t('thumbUp') : t('thumbDown'), value > 0 ? 'good' : 'bad'), ' ', reason ?? ''));
  return h('article', { class: 'card', tabindex: '-1', 'aria-label': t('reply') },
    h('div', { class: 'talk' }, said('user', t('asked'), one.question), said('', `${t('reply')} · ${one.channel}`, one.text)),
    h('ul', { class: 'plain' }, ...votes),
    field(one.proposed ? t('proposedAnswer') : t('betterAnswer'), better, t('betterHint')),
    h('div', { class: 'actions' }, button(t('exclude'), () => decide('exclude')), button(t('approve'), () => decide('approve')),
      button(t('correct'), () => decide('correct', { better: better.value }), 'primary')));
}

/** What somebody said, with who. */
export function said(kind, who, text) {
  return h('div', { class: `said ${kind}`.trim(), dir: 'auto' }, ...(who ? [h('small', {}, who)] : []), text);
}

export function talk(messages) {
  return messages.map(({ role, content }) => said(role === 'user' ? 'user' : '', word('said', role), content));
}
