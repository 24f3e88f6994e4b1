/** What every page of the admin interface is put together from. */

import { h, icon } from '/static/dom.js';
import { lang, t } from './strings.js';

// --- words and numbers ---

const DATE = new Intl.DateTimeFormat(lang, { dateStyle: 'medium', timeStyle: 'short' });
const NUMBER = new Intl.NumberFormat(lang);
const RELATIVE = new Intl.RelativeTimeFormat(lang, { numeric: 'auto' });

/** A moment, as people say it; the exact one is its tooltip. */
export function when(ms) {
  if (!ms) return '';
  return h('time', { datetime: new Date(ms).toISOString(), title: DATE.format(ms) }, ago(ms));
}

function ago(ms) {
  const seconds = Math.min((ms - Date.now()) / 1000, 0);
  if (seconds > -45) return t('justNow');
  if (seconds > -3600) return RELATIVE.format(Math.round(seconds / 60), 'minute');
  if (seconds > -86_400) return RELATIVE.format(Math.round(seconds / 3600), 'hour');
  if (seconds > -7 * 86_400) return RELATIVE.format(Math.round(seconds / 86_400), 'day');
  return DATE.format(ms);
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || Number.isNaN(value)) return '–';
  return digits ? Number(value).toFixed(digits) : NUMBER.format(value);
}

export function percent(share, digits = 0) {
  return share === null || share === undefined ? '–' : `${(100 * share).toFixed(digits)} %`;
}

/** Seconds as 1:05 or 2:01:05. */
export function duration(seconds) {
  const whole = Math.max(Math.round(seconds), 0);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, '0');
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

// --- parts ---

/** @param {'good'|'bad'|'busy'|''} tone */
export function badge(text, tone = '') {
  return h('span', { class: `badge ${tone}`.trim() }, text);
}

export function button(label, onclick, kind = '') {
  return h('button', { type: 'button', class: `button ${kind}`.trim(), onclick }, label);
}

export function card(title, ...children) {
  const heading = title ? [h('h2', {}, title)] : [];
  return h('section', { class: 'card' }, ...heading, ...children);
}

export function empty(text) {
  return h('p', { class: 'empty' }, text);
}

/** Pairs of a name and what it is; those without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== '');
  return h('dl', { class: 'facts' }, ...shown.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value))));
}

/**
 * @param {string} caption for those who can't see where it stands
 * @param {{name: string, cell: (row: any) => Node|string, kind?: string}[]} columns
 */
export function table(caption, columns, rows) {
  const head = h('tr', {}, ...columns.map(({ name, kind }) => h('th', { scope: 'col', class: kind }, name)));
  const body = rows.map((row) => h('tr', {}, ...columns.map(({ name, cell, kind }) => {
    const value = cell(row);
    return h('td', { class: kind, 'data-label': name || null }, value ?? '');
  })));
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption },
    h('table', {}, h('caption', { class: 'sr' }, caption), h('thead', {}, head), h('tbody', {}, ...body)));
}

/** How far something is; without a share it only says that it goes on. */
export function progress(label, share) {
  const bar = h('progress', { max: '1', 'aria-label': label });
  if (share !== null && share !== undefined) bar.value = share;
  return bar;
}

/** A picture that the server draws. `version` is what it depends on: the browser asks again when that changes. */
export function chart(path, alt, version = '') {
  const address = `/admin/api/${path}?v=${encodeURIComponent(version)}`;
  const image = h('img', { class: 'chart', alt, src: address });
  const frame = h('a', { href: address, target: '_blank', rel: 'noopener', title: t('openChart') }, image);
  image.addEventListener('error', () => frame.replaceWith(empty(t('chartFailed'))));
  return frame;
}

let fields = 0;

export function field(label, input, hint = '') {
  const id = `field-${fields += 1}`;
  input.id = id;
  if (hint) input.setAttribute('aria-describedby', `${id}-hint`);
  const note = hint ? [h('small', { id: `${id}-hint` }, hint)] : [];
  return h('div', { class: 'field' }, h('label', { for: id }, label), input, ...note);
}

export function select(options, chosen, props = {}) {
  return h('select', props, ...options.map(([value, name]) => h('option', { value, selected: value === chosen }, name)));
}

// --- what the person is told ---

const notices = h('div', { class: 'notices', role: 'status', 'aria-live': 'polite' });

export function notify(text, tone = 'good') {
  if (!notices.isConnected) document.body.append(notices);
  const close = h('button', { type: 'button', class: 'tool', 'aria-label': t('dismiss'), onclick: () => note.remove() }, icon('close'));
  const note = h('div', { class: `notice ${tone}` }, h('p', {}, text), close);
  notices.append(note);
  if (tone === 'good') setTimeout(() => note.remove(), 6000);
}

export function errorText(error) {
  if (error.status === 0) return t('unreachable');
  const reference = error.status >= 500 && error.requestId ? ` ${t('reference', { id: error.requestId })}` : '';
  return `${error.message || t('failed')}${reference}`;
}

/** Runs an action, tells of its failure, and says whether it went well. */
export async function attempt(action, success = '') {
  try {
    await action();
    if (success) notify(success);
    return true;
  } catch (error) {
    if (error.status !== 401) notify(errorText(error), 'bad');
    return false;
  }
}

/**
 * Asks before something is done. Resolves with what was filled in, or null.
 * @param {{title: string, lines?: (string|Node)[], action: string, danger?: boolean, typed?: string,
 *   fields?: {name: string, label: string, input: HTMLElement, needed?: boolean, hint?: string}[]}} what
 *   `typed` is a word that has to be typed first
 */
export function ask({ title, lines = [], action, danger = false, typed = '', fields: wanted = [] }) {
  const typedInput = h('input', { type: 'text', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' });
  const go = h('button', { type: 'submit', class: `button ${danger ? 'danger' : 'primary'}` }, action);
  const cancel = button(t('cancel'), () => dialog.close());
  const inputs = wanted.map(({ label, input, hint }) => field(label, input, hint));
  if (typed) inputs.push(field(t('typeToConfirm', { word: typed }), typedInput));
  const form = h('form', { method: 'dialog', novalidate: true }, h('h2', { id: 'ask-title' }, title),
    ...lines.map((line) => (typeof line === 'string' ? h('p', {}, line) : line)), ...inputs,
    h('div', { class: 'actions' }, cancel, go));
  const dialog = h('dialog', { 'aria-labelledby': 'ask-title' }, form);
  const isReady = () => (!typed || typedInput.value.trim() === typed)
    && wanted.every(({ input, needed }) => !needed || input.value.trim());
  const update = () => { go.disabled = !isReady(); };
  form.addEventListener('input', update);
  update();
  document.body.append(dialog);
  return new Promise((resolve) => {
    let answer = null;
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      if (!isReady()) return;
      answer = Object.fromEntries(wanted.map(({ name, input }) => [name, input.value.trim()]));
      dialog.close();
    });
    dialog.addEventListener('close', () => { dialog.remove(); resolve(answer); });
    dialog.showModal();
    (inputs.length ? form.querySelector('input, textarea, select') : cancel).focus();
  });
}

// --- pages that follow what happens ---

/**
 * Draws what `load` fetches into `container`, again only where it has changed, and keeps the focus.
 * @returns {() => Promise<void>} fetches and draws again
 */
export function live(container, load, draw) {
  let last = null;
  return async (force = false) => {
    const value = await load();
    const text = JSON.stringify(value);
    if (text === last && force !== true) return;
    last = text;
    const focused = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    container.replaceChildren(...[draw(value)].flat());
    if (focused) container.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  };
}

/** A link within the admin page. */
export function link(page, text, ...rest) {
  return h('a', { href: `#/${[page, ...rest].map(encodeURIComponent).join('/')}` }, text);
}
