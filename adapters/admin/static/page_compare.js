/** Two answers to the same question, of which nothing tells whose they are. */

import { h } from '/static/dom.js';
import { get, post, statusOf } from './api.js';
import { said, talk } from './page_feedback.js';
import { t, word } from './strings.js';
import { attempt, badge, button, empty, link, live, number, progress, table, when } from './ui.js';

/**
 * @typedef {object} Pair
 * @property {number} number
 * @property {number} judged
 * @property {number} pairs
 * @property {{role: string, content: string}[]} messages
 * @property {string} left
 * @property {string} right
 */

export function comparePage(context) {
  const [id] = context.params;
  return id ? judgePage(id) : listPage(context);
}

function listPage({ may }) {
  const list = h('div');
  const refresh = live(list, () => get('evaluations'),
    ({ evaluations }) => (evaluations.length ? draw(evaluations, may) : empty(t('noEvaluations'))));
  return { node: h('div', {}, h('p', { class: 'muted' }, t('compareMeans')), list), refresh };
}

function draw(evaluations, may) {
  return table(word('page', 'compare'), [
    { name: t('version'), cell: ({ version }) => link('versions', version ?? '', version ?? '') },
    { name: t('against'), cell: ({ champion }) => champion ?? t('baseModel') },
    { name: t('gate'), cell: ({ passed }) => (passed ? badge(t('passed'), 'good') : badge(t('notPassed'), 'bad')) },
    { name: t('votesFor'), cell: ({ judgements }) => votes(judgements) },
    { name: t('created'), cell: ({ createdAt }) => when(createdAt) },
    { name: '', cell: ({ id }) => (may('agent') ? link('compare', t('judgeAnswers'), id) : ''), kind: 'end' },
  ], evaluations);
}

function votes({ candidate, champion, same }) {
  return `${number(candidate)} : ${number(champion)} (${t('same')}: ${number(same)})`;
}

function judgePage(id) {
  const node = h('div');
  const path = `evaluations/${encodeURIComponent(id)}`;
  /** What is judged now. @type {Pair|null} */
  let pair = null;
  let isLoaded = false;
  let busy = false;

  /** What somebody judges stays until they have. */
  async function refresh() {
    if (isLoaded) return;
    ({ pair } = await get(`${path}/pair`));
    isLoaded = true;
    show();
  }

  /** The next pair. What was judged before, but without a word that it was, leads on, too. */
  async function judge(number, choice) {
    try {
      return await post(`${path}/judgements`, { number, choice });
    } catch (error) {
      if (statusOf(error) !== 409) throw error;
      return get(`${path}/pair`);
    }
  }

  async function choose(choice) {
    if (!pair || busy) return;
    const { number } = pair;
    busy = true;
    const judged = await attempt(async () => { ({ pair } = await judge(number, choice)); });
    busy = false;
    if (!judged) return;
    show();
    node.querySelector('h2')?.focus();
  }

  function show() {
    const back = h('p', {}, link('compare', t('allComparisons')));
    node.replaceChildren(back, ...(pair ? drawPair(pair, choose) : [empty(t('allJudged'))]));
  }

  function onKey(event) {
    const choice = { 1: 'left', 2: 'right', 3: 'same' }[event.key];
    if (!choice || !pair) return;
    event.preventDefault();
    choose(choice);
  }

  return { node, refresh, onKey };
}

function drawPair(pair, choose) {
  const label = t('judgedOf', { judged: pair.judged, pairs: pair.pairs });
  const side = (name, key, text, choice) => h('section', { class: 'card' }, h('h3', {}, name), said('', '', text),
    button(h('span', {}, t('betterOne'), ' ', h('kbd', {}, key)), () => choose(choice), 'primary'));
  return [
    h('h2', { tabindex: '-1' }, label),
    progress(label, pair.pairs ? pair.judged / pair.pairs : 0),
    h('section', { class: 'card' }, h('div', { class: 'talk' }, ...talk(pair.messages))),
    h('div', { class: 'side-by-side' }, side(t('left'), '1', pair.left, 'left'),
      side(t('right'), '2', pair.right, 'right')),
    h('div', { class: 'actions' }, button(h('span', {}, t('sameGood'), ' ', h('kbd', {}, '3')), () => choose('same'))),
  ];
}
