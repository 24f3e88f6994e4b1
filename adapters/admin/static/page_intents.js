/** What messages are about: the intents that are known, learning others from a file or a text, and trying a message. */

import { h } from '/static/dom.js';
import { get, post, upload } from './api.js';
import { editor, fileForm } from './intents_training.js';
import { t, word } from './strings.js';
import { ask, attempt, badge, button, card, empty, errorText, facts, field, number, percent, progress, table,
  when } from './ui.js';

// The first message loads the embedder.
const TRY_TIMEOUT_MS = 120_000;

export function intentsPage({ may }) {
  const mayChange = may('trainer');
  const under = h('div');
  const known = h('div');
  const tried = tryCard();
  const edited = h('div');
  const form = mayChange ? fileForm(train) : null;
  let isLoaded = false;
  let isTraining = false;

  /** All of it is much: asked for once, and when something was learnt. */
  async function refresh(force = false) {
    const { training } = isLoaded && !force ? await get('intents/training') : await loadAll();
    const hasEnded = isTraining && !training;
    tellTraining(training);
    if (hasEnded && !force) await loadAll();
  }

  async function loadAll() {
    const found = await get('intents');
    isLoaded = true;
    form?.allow(found);
    tried.hidden = !found.trained;
    known.replaceChildren(...(found.trained ? draw(found) : nothingYet()));
    return found;
  }

  function tellTraining(training) {
    isTraining = Boolean(training);
    under.toggleAttribute('data-busy', isTraining);
    under.replaceChildren(...(training ? [underWay(training)] : []));
  }

  /** Throws what the server says of it. */
  async function train(content) {
    tellTraining({ by: '', done: 0, of: 0 });
    try {
      const made = await upload('intents/train', content, () => {});
      edited.replaceChildren();
      return made;
    } finally {
      await attempt(() => refresh(true));
    }
  }

  async function edit() {
    await attempt(async () => open((await get('intents/phrases')).csv));
  }

  function open(csv) {
    edited.replaceChildren(editor(csv, train, () => edited.replaceChildren()));
    edited.querySelector('textarea')?.focus();
  }

  function nothingYet() {
    if (!mayChange) return [empty(t('noIntentsViewer'))];
    const node = empty(t('noIntentsYet'));
    node.append(' ', button(t('writePhrases'), () => open('text,intent,reply\n'), 'small'));
    return [node];
  }

  function draw({ trained, days, mostPhrases }) {
    const { intents, numPhrases, outOfScope, report, trainedBy, trainedAt } = trained;
    const change = numPhrases > mostPhrases
      ? [h('p', { class: 'muted' }, t('tooManyToEdit', { count: number(mostPhrases) }), ' ',
        h('code', {}, 'myna intents train FILE.csv'))]
      : [];
    const actions = h('div', { class: 'actions' },
      h('a', { class: 'button', href: '/admin/api/intents/file', download: 'intents.csv', 'data-key': 'download' },
        t('download')),
      ...(mayChange && !change.length ? [button(t('edit'), edit)] : []),
      ...(mayChange ? [button(t('forgetAll'), () => askToForget(() => refresh(true)), 'danger-line')] : []));
    return [
      card(t('intentsKnown'), facts([
        [word('page', 'intents'), number(intents.length)], [t('phrases'), number(numPhrases)],
        [t('macroF1'), number(report.macro_f1, 2)],
        [t('outOfScope', { days }), number(outOfScope)], [t('trainedAt'), when(trainedAt)], [t('trainedBy'), trainedBy],
      ]), actions, ...(mayChange ? change : []), intentTable(intents, days)),
    ];
  }

  const node = h('div', {}, h('p', { class: 'muted' }, t('intentsMean')), under, known, edited, tried,
    ...(form ? [form.node] : []));
  return { node, refresh };
}

function underWay({ by, done, of }) {
  const told = of ? t('phrasesRead', { done: number(done), of: number(of) }) : '';
  // After the last phrase is read comes the learning, of which nobody knows how far it is.
  return h('section', { class: 'card', role: 'status' },
    h('p', {}, by ? t('trainingBy', { name: by }) : t('trainingIntents')),
    progress(t('trainingIntents'), of && done < of ? done / of : null),
      ...(told ? [h('p', { class: 'muted' }, told)] : []));
}

function intentTable(intents, days) {
  return table(t('intentsKnown'), [
    { name: t('intent'), cell: ({ name }) => h('strong', { class: 'break' }, name) },
    { name: t('phrases'), cell: ({ phrases }) => number(phrases), kind: 'number' },
    { name: t('messagesOf', { days }), cell: ({ messages }) => number(messages), kind: 'number' },
    { name: t('replyWordForWord'), cell: ({ reply }) => (reply ? h('span', { class: 'said-so' }, reply) : '') },
  ], intents);
}

async function askToForget(done) {
  const sure = await ask({
    title: t('forgetTitle'), lines: [t('forgetMeans')], action: t('forgetAll'), danger: true, success: t('forgotten'),
    act: () => post('intents/clear'),
  });
  if (sure) attempt(done);
}

function tryCard() {
  const message = h('input', { type: 'text', autocomplete: 'off', maxlength: '2000' });
  const go = h('button', { type: 'submit', class: 'button primary' }, t('tryIt'));
  const problem = h('p', { class: 'problem', role: 'alert' });
  const result = h('div', { class: 'stack', 'aria-live': 'polite' });
  const form = h('form', { class: 'inline', novalidate: true }, field(t('message'), message), go);
  message.parentElement?.classList.add('wide');
  form.addEventListener('input', () => message.removeAttribute('aria-invalid'));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    go.disabled = true;
    problem.textContent = '';
    result.replaceChildren();
    try {
      if (!message.value.trim()) throw new Error(t('messageMissing'));
      result.replaceChildren(...drawTried(await post('intents/try', { message: message.value }, TRY_TIMEOUT_MS)));
    } catch (error) {
      problem.textContent = errorText(error);
      message.setAttribute('aria-invalid', 'true');
      message.focus();
    } finally {
      go.disabled = false;
    }
  });
  const node = card(t('tryMessage'), h('p', { class: 'muted' }, t('tryMessageMeans')), form, problem, result);
  node.hidden = true;
  return node;
}

function drawTried({ intent, nearest, probability, reply }) {
  return [
    h('div', { class: 'row' }, badge(intent ? t('fits') : t('fitsNone'), intent ? 'good' : 'bad'),
      h('p', { class: 'grow' }, intent ? t('fitsMeans') : t('fitsNoneMeans'))),
    facts([[intent ? t('intent') : t('nearest'), nearest], [t('probability'), percent(probability)]]),
    ...(reply ? [h('blockquote', { class: 'said-so' }, reply)] : []),
  ];
}
