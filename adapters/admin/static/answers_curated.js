/** Answers that are given word for word, and corrections by staff that may become some. */

import { h } from '/static/dom.js';
import { audiences } from './articles_trying.js';
import { get, getNewest, post } from './api.js';
import { t, word } from './strings.js';
import { ask, attempt, button, debounced, empty, field, live, number, select, table, when } from './ui.js';

const PAGE = 50;
const MORE = 200;
/** A longer answer is opened to be read. */
const SHORT = 160;

export function curatedList(mayChange) {
  const text = h('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', maxlength: '200' });
  const found = h('div', { class: 'stack' });
  let most = PAGE;
  const query = () => `answers?${new URLSearchParams({ text: text.value.trim(), most: String(most) })}`;
  const foot = h('p', { hidden: true }, button(t('showMore'), () => {
    most += MORE;
    attempt(() => refresh());
  }));
  const filter = h('div', { role: 'search', hidden: true }, field(t('findAnswers'), text));
  const refresh = live(found, () => getNewest(query), (value) => {
    filter.hidden = !value.count && !text.value;
    foot.hidden = value.answers.length >= Math.min(value.count, value.most);
    return draw(value, Boolean(text.value.trim()), mayChange, refresh);
  });
  text.addEventListener('input', debounced(() => {
    most = PAGE;
    attempt(() => refresh());
  }));
  const add = mayChange ? [button(t('addAnswer'), () => askToAdd(refresh), 'small')] : [];
  const head = h('div', { class: 'row' }, h('h2', { class: 'grow' }, t('curated')), ...add);
  const means = h('p', { class: 'muted' }, t('curatedMean'));
  return { node: h('section', { class: 'card' }, head, means, filter, found, foot), refresh };
}

function draw({ answers, count }, isFiltered, mayChange, refresh) {
  if (!count) return isFiltered ? h('p', { class: 'muted', role: 'status' }, t('noAnswerFits')) : empty(t('noAnswers'));
  /** @type {import('./ui.js').Column[]} */
  const columns = [
    { name: t('question'), cell: ({ question }) => h('span', { class: 'break' }, question) },
    { name: t('answer'), cell: ({ id, answer }) => longText(answer, id) },
    { name: t('audience'), cell: ({ audience }) => word('audience', audience) },
    { name: t('given'), cell: ({ given }) => number(given), kind: 'number' },
    { name: t('addedBy'), cell: ({ createdBy }) => createdBy },
    { name: t('since'), cell: ({ createdAt }) => when(createdAt) },
  ];
  if (mayChange) columns.push({ name: '', cell: (one) => removal(one, refresh), kind: 'end' });
  return [h('p', { class: 'muted', role: 'status' }, t('answersFound', { count: number(count) })),
    table(t('curated'), columns, answers)];
}

function longText(text, key) {
  if (text.length <= SHORT) return h('span', { class: 'said-so' }, text);
  return h('details', { 'data-key': key },
    h('summary', { class: 'break', 'data-key': `${key}-summary` }, `${text.slice(0, SHORT)} …`),
    h('p', { class: 'said-so' }, text));
}

/** The fields of an answer. What was in force while staff wrote may differ, and so an audience is always asked for. */
function fieldsFor(question) {
  const input = h('textarea', { rows: '2', maxlength: '1000' });
  input.value = question;
  return {
    question: { name: 'question', label: t('question'), input, needed: true, hint: t('questionHint') },
    audience: { name: 'audience', label: t('audience'), input: select(audiences(), 'public') },
  };
}

async function askToAdd(refresh) {
  const { question, audience } = fieldsFor('');
  const answer = { name: 'answer', label: t('answer'), input: h('textarea', { rows: '5', maxlength: '10000' }),
    needed: true };
  const done = await ask({
    title: t('addAnswer'), action: t('add'), success: t('answerAdded'), fields: [question, answer, audience],
    act: (body) => post('answers', body),
  });
  if (done) attempt(() => refresh(true));
}

function removal({ id, question }, refresh) {
  const remove = button(t('removeSource'), async () => {
    const done = await ask({
      title: t('removeAnswerTitle'), lines: [h('blockquote', { class: 'break' }, question), t('removeAnswerMeans')],
      action: t('removeSource'), danger: true, success: t('answerRemoved'),
      act: () => post(`answers/${encodeURIComponent(id)}/remove`),
    });
    if (done) attempt(() => refresh(true));
  }, 'small danger-line');
  remove.setAttribute('aria-label', t('removeAnswerOf', { question }));
  return remove;
}

/** @param {boolean} mayChange @param {() => void} approved runs after one became an answer */
export function correctionList(mayChange, approved) {
  const node = h('div');
  const refresh = live(node, () => get('corrections'),
    ({ corrections }) => (corrections.length ? drawCorrections(corrections) : []));

  function drawCorrections(corrections) {
    return h('section', { class: 'card' }, h('h2', {}, t('corrections')),
      h('p', { class: 'muted' }, t('correctionsMean')),
      h('div', { class: 'passages' }, ...corrections.map(correction)));
  }

  function correction(one) {
    const approve = mayChange ? [button(t('makeAnswer'), () => askToApprove(one), 'small')] : [];
    return h('section', { class: 'passage' },
      h('div', { class: 'row' }, h('h3', { class: 'grow break' }, one.question), ...approve),
      h('p', {}, one.better), h('p', { class: 'muted' }, one.reviewer, ', ', when(one.createdAt)));
  }

  async function askToApprove(one) {
    const { question, audience } = fieldsFor(one.question);
    const done = await ask({
      title: t('makeAnswer'), action: t('add'), success: t('answerAdded'), fields: [question, audience],
      lines: [h('blockquote', { class: 'said-so' }, one.better)],
      act: (body) => post(`corrections/${encodeURIComponent(one.replyId)}/approve`, body),
    });
    if (!done) return;
    attempt(() => refresh(true));
    attempt(approved);
  }

  return { node, refresh };
}
