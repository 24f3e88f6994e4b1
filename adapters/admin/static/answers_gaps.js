/** Gaps: questions that nothing was found for, each with a draft of the article that is missing. */

import { h } from '/static/dom.js';
import { audiences } from './articles_trying.js';
import { fieldOf, get, post, statusOf } from './api.js';
import { t, word } from './strings.js';
import { ask, badge, button, empty, errorText, field, link, notify, number, progress, select, when } from './ui.js';

// All questions of the time are compared with each other, for each of these requests.
const TIMEOUT_MS = 300_000;
/** With more than so many, the rest of the page would be far away. */
const SHOWN = 10;

/** @returns {{node: Node, begin: () => void}} `begin` looks for them, the first time */
export function gapList(mayChange) {
  const found = h('div', { class: 'stack' });
  const again = button(t('lookAgain'), () => load(), 'small');
  /** What was written and not sent yet, by gap. */
  const drafts = new Map();
  let isBegun = false;

  async function load() {
    isBegun = true;
    again.disabled = true;
    found.replaceChildren(h('p', { role: 'status', class: 'muted' }, t('lookingForGaps')),
      progress(t('lookingForGaps')));
    try {
      const { gaps, days } = await get('gaps', TIMEOUT_MS);
      found.replaceChildren(...draw(gaps, days, drafts, mayChange));
    } catch (error) {
      found.replaceChildren(h('p', { class: 'problem', role: 'alert' }, errorText(error)));
    } finally {
      again.disabled = false;
    }
  }

  const head = h('div', { class: 'row' }, h('h2', { class: 'grow' }, t('gaps')), again);
  const node = h('section', { class: 'card' }, head, h('p', { class: 'muted' }, t('gapsMean')), found);
  return { node, begin: () => { if (!isBegun) load(); } };
}

function draw(gaps, days, drafts, mayChange) {
  if (!gaps.length) return [empty(t('noGaps', { days }))];
  const told = h('p', { class: 'muted', role: 'status' }, t('gapsFound', { count: number(gaps.length), days }));
  const rows = gaps.map((gap) => oneGap(gap, drafts, mayChange));
  const list = h('div', { class: 'passages' }, ...rows.slice(0, SHOWN));
  if (rows.length <= SHOWN) return [told, list];
  const foot = h('p', {}, button(t('showAllGaps', { count: number(rows.length) }), () => {
    list.append(...rows.slice(SHOWN));
    foot.remove();
    rows[SHOWN].querySelector('summary')?.focus();
  }));
  return [told, list, foot];
}

function oneGap(gap, drafts, mayChange) {
  const [question, ...others] = gap.questions;
  const summary = h('summary', {}, h('strong', { class: 'break' }, question), ' ',
    h('span', { class: 'muted' }, gap.count === 1 ? t('askedOnce') : t('askedTimes', { count: number(gap.count) }),
      ', ', when(gap.lastAskedAt)));
  const node = h('div', { class: 'passage' });
  const wordings = others.length
    ? [h('div', {}, h('p', { class: 'muted' }, t('alsoAskedAs')),
      h('ul', { class: 'reasons' }, ...others.map((one) => h('li', { class: 'break' }, one))))]
    : [];
  const body = mayChange ? draftForm(gap, drafts, node) : h('pre', { 'aria-label': t('draft') }, gap.draft);
  node.append(h('details', {}, summary, h('div', { class: 'stack opened' }, ...wordings, body)));
  return node;
}

function draftForm(gap, drafts, node) {
  const text = h('textarea', { rows: '9', maxlength: '100000' });
  text.value = drafts.get(gap.id) ?? gap.draft;
  const audience = select(audiences(), 'public');
  const problem = h('p', { class: 'problem', role: 'alert' });
  const go = h('button', { type: 'submit', class: 'button primary' }, t('addAsArticle'));
  const close = button(t('needsNone'), () => askToClose(gap, node));
  const form = h('form', { class: 'stack', novalidate: true }, field(t('draft'), text, t('draftHint')), problem,
    h('div', { class: 'inline' }, field(t('audience'), audience), h('div', { class: 'actions' }, close, go)));
  text.addEventListener('input', () => {
    drafts.set(gap.id, text.value);
    text.removeAttribute('aria-invalid');
  });
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    go.disabled = close.disabled = true;
    problem.textContent = '';
    try {
      const { job } = await post(`gaps/${encodeURIComponent(gap.id)}/approve`,
        { text: text.value, audience: audience.value }, TIMEOUT_MS);
      drafts.delete(gap.id);
      tellAdded(node, gap, job);
    } catch (error) {
      problem.textContent = explained(error);
      if (fieldOf(error) === 'text') {
        text.setAttribute('aria-invalid', 'true');
        text.focus();
      }
    } finally {
      go.disabled = close.disabled = false;
    }
  });
  return form;
}

function tellAdded(node, gap, job) {
  const told = h('p', { class: 'row', role: 'status', tabindex: '-1' }, badge(t('gapAdded'), 'good'),
    h('span', { class: 'grow break' }, gap.questions[0]), link('jobs', t('readingJob'), job.id),
    link('articles', word('page', 'articles')));
  node.replaceChildren(told);
  told.focus();
  notify(t('gapAddedMeans'));
}

/** Others may have written its article meanwhile. */
function explained(error) {
  return statusOf(error) === 404 ? t('gapGone') : errorText(error);
}

async function askToClose(gap, node) {
  const done = await ask({
    title: t('needsNoneTitle'), lines: [h('blockquote', { class: 'break' }, gap.questions[0]), t('needsNoneMeans')],
    action: t('needsNone'),
    success: t('gapClosed'), act: () => post(`gaps/${encodeURIComponent(gap.id)}/close`, {}, TIMEOUT_MS),
  });
  if (done) node.remove();
}
