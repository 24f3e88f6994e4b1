/** Two ways to send phrases to learn from: a CSV file, and a text that is one. */

import { h } from '/static/dom.js';
import { t } from './strings.js';
import { button, errorText, field, notify, number } from './ui.js';

/** @param {(content: Blob) => Promise<{intents: number, phrases: number, report: any}>} train */
export function fileForm(train) {
  const chosen = h('input', { type: 'file', accept: '.csv,text/csv' });
  let limit = Infinity;
  const hint = h('p', { class: 'muted' });
  const node = form(t('trainFromFile'), chosen, [hint, field(t('csvFile'), chosen, t('csvHint'))], [], async () => {
    const [file] = chosen.files ?? [];
    if (!file) throw new Error(t('csvMissing'));
    if (file.size > limit) throw new Error(t('fileTooLarge', { mb: Math.floor(limit / 2 ** 20) }));
    // A file that was wrong is changed and chosen again: the browser would not read what it holds now otherwise.
    chosen.value = '';
    return train(file);
  });
  return {
    node,
    allow({ maxBytes, mostPhrases }) {
      limit = maxBytes;
      hint.replaceChildren(t('trainIntentsMeans', { count: number(mostPhrases) }), ' ',
        h('code', {}, 'myna intents train FILE.csv'));
    },
  };
}

/** @param {() => void} close runs when it is not wanted any more */
export function editor(csv, train, close) {
  const text = h('textarea', { rows: '16', class: 'code', spellcheck: 'false', wrap: 'off' });
  text.value = csv;
  return form(t('editPhrases'), text, [field(t('phrases'), text, t('csvHint'))], [button(t('cancel'), close)], () => {
    if (!text.value.trim()) throw new Error(t('phrasesMissing'));
    return train(new Blob([text.value]));
  });
}

function form(title, input, fields, buttons, send) {
  const problem = h('p', { class: 'problem lines', role: 'alert' });
  const go = h('button', { type: 'submit', class: 'button primary' }, t('trainIntents'));
  const node = h('form', { class: 'card', novalidate: true }, h('h2', {}, title), ...fields, problem,
    h('div', { class: 'actions' }, ...buttons, go));
  node.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (go.disabled) return;
    go.disabled = true;
    problem.textContent = '';
    input.removeAttribute('aria-invalid');
    try {
      const { intents, phrases, report } = await send();
      notify(t('trainedNow', { intents: number(intents), phrases: number(phrases), f1: number(report.macro_f1, 2) }));
    } catch (error) {
      problem.textContent = errorText(error);
      input.setAttribute('aria-invalid', 'true');
      input.focus();
    } finally {
      go.disabled = false;
    }
  });
  return node;
}
