/** Trying a question: which passages are found, how sure that is, and what a reply would do with them. */

import { h } from '/static/dom.js';
import { ApiError, post } from './api.js';
import { t, word } from './strings.js';
import { badge, card, errorText, facts, field, link, number, percent, select } from './ui.js';

// The first question loads the embedder.
const TRY_TIMEOUT_MS = 120_000;
const NAMES = ['public', 'customers', 'staff'];
const TONES = { found: 'good', unknown: 'bad' };

/** Every audience with the words for it. */
export function audiences() {
  return NAMES.map((name) => [name, word('audience', name)]);
}

export function tryCard() {
  const question = h('input', { type: 'text', autocomplete: 'off', maxlength: '2000' });
  const who = select(NAMES.map((name) => [name, word('askedBy', name)]), 'public');
  const go = h('button', { type: 'submit', class: 'button primary' }, t('tryIt'));
  const problem = h('p', { class: 'problem', role: 'alert' });
  const result = h('div', { class: 'stack', 'aria-live': 'polite' });
  const form = h('form', { class: 'inline', novalidate: true }, field(t('question'), question),
    field(t('askedBy'), who), go);
  question.parentElement?.classList.add('wide');
  form.addEventListener('input', () => question.removeAttribute('aria-invalid'));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (!go.disabled) tryOut();
  });

  async function tryOut() {
    go.disabled = true;
    problem.textContent = '';
    result.replaceChildren();
    try {
      if (!question.value.trim()) throw new Error(t('questionMissing'));
      const { tried } = await post('articles/try', { question: question.value, audience: who.value }, TRY_TIMEOUT_MS);
      result.replaceChildren(...(tried ? draw(tried) : [h('p', {}, t('triedNothing'))]));
    } catch (error) {
      problem.textContent = errorText(error);
      if (!(error instanceof ApiError) || error.status === 0 || error.field === 'question') {
        question.setAttribute('aria-invalid', 'true');
      }
      question.focus();
    } finally {
      go.disabled = false;
    }
  }

  return card(t('tryQuestion'), h('p', { class: 'muted' }, t('tryMeansNothing')), form, problem, result);
}

function draw({ verdict, words, intent, confidence, threshold, passages, numRead }) {
  return [
    h('div', { class: 'row' }, badge(word('tried', verdict), TONES[verdict] ?? 'busy'),
      h('p', { class: 'grow' }, word('triedMeans', verdict))),
    ...(words ? [h('blockquote', { class: 'break' }, words)] : []),
    facts([...(intent === null ? [] : [[t('triedIntent'), intent || t('noIntent')]]), [t('sure'), percent(confidence)],
      [t('sureNeeded'), percent(threshold)]]),
    h('ol', { class: 'passages' }, ...passages.map((one, place) => foundPassage(one, place < numRead))),
  ];
}

function foundPassage({ articleId, title, headings, text, score }, isRead) {
  const way = [title, ...headings].join(' › ');
  const mark = isRead ? [badge(t('readForAnswer'), 'good')] : [];
  return h('li', { class: 'passage' },
    h('div', { class: 'row' }, h('h3', { class: 'grow break' }, link('articles', way, articleId)), ...mark,
      h('span', { class: 'muted' }, `${t('score')} ${number(score, 2)}`)),
    h('p', {}, text));
}
