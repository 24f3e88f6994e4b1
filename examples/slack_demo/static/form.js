/** A form that the bot has opened: its inputs, what is wrong with them, sending and closing it. */

import { find, h, tool } from './dom.js';

/**
 * @param {any} view as Slack keeps it
 * @param {(values: object) => Promise<unknown>} submit
 * @param {() => void} cancel
 */
export function formElement(view, submit, cancel) {
  const send = h('button', { type: 'submit', class: 'button primary' }, view.submit?.text ?? 'OK');
  const buttons = h('footer', {}, h('button', { type: 'button', class: 'button', onclick: cancel },
    view.close?.text ?? 'Cancel'));
  if (view.submit) buttons.append(send);
  const form = h('form', { novalidate: true },
    h('header', {}, h('h2', { id: 'form-title' }, view.title.text), tool('close', 'Close', cancel)),
    h('div', { class: 'fields' }, ...view.blocks.map(fieldOf)),
    buttons);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    send.disabled = true;
    await submit(valuesOf(view, form));
    send.disabled = false;
  });
  const dialog = h('dialog', { class: 'modal', 'aria-labelledby': 'form-title' }, form);
  dialog.addEventListener('cancel', (event) => {
    event.preventDefault();
    cancel();
  });
  return dialog;
}

function fieldOf(block) {
  if (block.type !== 'input') return h('p', { class: 'note' }, block.text?.text ?? `[${block.type}]`);
  if (block.element.type !== 'plain_text_input') {
    return h('p', { class: 'note' }, `[${block.element.type}: this page does not show it]`);
  }
  const { element } = block;
  const id = `field-${block.block_id}`;
  const shape = { id, 'data-block': block.block_id, maxlength: element.max_length,
    placeholder: element.placeholder?.text, 'aria-describedby': `${id}-wrong` };
  const input = element.multiline ? h('textarea', { rows: '3', ...shape }) : h('input', { type: 'text', ...shape });
  input.value = element.initial_value ?? '';
  const label = h('label', { for: id }, block.label.text);
  if (block.optional) label.append(h('span', { class: 'optional' }, ' (optional)'));
  return h('div', { class: 'field' }, label, input, h('p', { class: 'wrong', id: `${id}-wrong`, role: 'alert' }));
}

/** Slack leaves a field that is empty null. */
function valuesOf(view, form) {
  const values = {};
  for (const block of view.blocks) {
    const input = form.querySelector(`[data-block="${CSS.escape(block.block_id)}"]`);
    if (!input) continue;
    const { type, action_id: action } = block.element;
    values[block.block_id] = { [action]: { type, value: input.value || null } };
  }
  return values;
}

/**
 * Shows what the bot says is wrong, below the fields, and leads to the first of them.
 * @param {HTMLDialogElement} dialog
 * @param {Record<string, string>} errors by block
 */
export function showErrors(dialog, errors) {
  /** @type {HTMLElement|null} */
  let first = null;
  /** @type {NodeListOf<HTMLElement>} */
  const inputs = dialog.querySelectorAll('[data-block]');
  for (const input of inputs) {
    const wrong = errors[input.dataset.block ?? ''] ?? '';
    input.setAttribute('aria-invalid', String(Boolean(wrong)));
    find(dialog, `#${CSS.escape(`${input.id}-wrong`)}`, HTMLElement).textContent = wrong;
    if (wrong) first ??= input;
  }
  first?.focus();
}
