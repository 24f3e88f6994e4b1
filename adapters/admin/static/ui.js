/** What every page of the admin interface is put together from. */

import { focusedElement, h, icon } from '/static/dom.js';
import { ApiError, fieldOf, statusOf } from './api.js';
import { lang, t, word } from './strings.js';

// --- words and numbers ---

const DATE = new Intl.DateTimeFormat(lang, { dateStyle: 'medium', timeStyle: 'short' });
const NUMBER = new Intl.NumberFormat(lang);
const RELATIVE = new Intl.RelativeTimeFormat(lang, { numeric: 'auto' });

/** A moment, as people say it; the exact one is its tooltip. @param {number|null|undefined} ms */
export function when(ms) {
  if (!ms) return '';
  return h('time', { datetime: new Date(ms).toISOString(), title: DATE.format(ms) }, ago(ms));
}

/** Says again how long ago each moment on the page is. */
export function freshenTimes() {
  for (const node of document.querySelectorAll('time')) {
    if (!node.dateTime) continue;
    const text = ago(Date.parse(node.dateTime));
    if (node.textContent !== text) node.textContent = text;
  }
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

/** @param {string} text @param {'good'|'bad'|'busy'|'mark'|''} tone */
export function badge(text, tone = '') {
  return h('span', { class: `badge ${tone}`.trim() }, text);
}

/**
 * @param {string|Node} label
 * @param {() => unknown} onclick
 */
export function button(label, onclick, kind = '') {
  const key = typeof label === 'string' ? label : null;
  return h('button', { type: 'button', class: `button ${kind}`.trim(), onclick, 'data-key': key }, label);
}

/** @param {string} title @param {...(Node|string)} children */
export function card(title, ...children) {
  const heading = title ? [h('h2', {}, title)] : [];
  return h('section', { class: 'card' }, ...heading, ...children);
}

export function empty(text) {
  return h('p', { class: 'empty' }, text);
}

/**
 * Pairs of a name and what it is; those without a value are left out.
 * @param {(Node|string|null|undefined)[][]} pairs
 */
export function facts(pairs) {
  const rows = pairs.flatMap(([name, value]) => {
    const isMissing = value === null || value === undefined || value === '';
    return isMissing ? [] : [h('div', {}, h('dt', {}, name ?? ''), h('dd', {}, value))];
  });
  return h('dl', { class: 'facts' }, ...rows);
}

/** What something was made with, for `facts`. @param {object|null|undefined} values */
export function settings(values) {
  const said = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  return Object.entries(values ?? {}).map(([name, value]) => [word('setting', name), said(value)]);
}

/** @typedef {{name: string, cell: (row: any) => Node|string|null|undefined, kind?: string}} Column */

/**
 * @param {string} caption for those who can't see where it stands
 * @param {Column[]} columns
 * @param {any[]} rows
 */
export function table(caption, columns, rows) {
  const head = h('tr', {}, ...columns.map(({ name, kind }) => h('th', { scope: 'col', class: kind }, name)));
  const body = rows.map((row) => h('tr', {}, ...columns.map(({ name, cell, kind }) => {
    const value = cell(row);
    return h('td', { class: kind, 'data-label': name || null }, value ?? '');
  })));
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption, 'data-key': caption },
    h('table', {}, h('caption', { class: 'sr' }, caption), h('thead', {}, head), h('tbody', {}, ...body)));
}

/**
 * How far something is; without a share it only says that it goes on.
 * @param {string} label
 * @param {number|null} [share]
 */
export function progress(label, share) {
  const bar = h('progress', { max: '1', 'aria-label': label });
  if (share !== null && share !== undefined) bar.value = share;
  return bar;
}

/**
 * A picture that the server draws.
 * @param {string} path
 * @param {string} alt
 * @param {string|number} version what it depends on: the browser asks again when that changes
 */
export function chart(path, alt, version) {
  const address = `/admin/api/${path}?v=${encodeURIComponent(version)}`;
  const image = h('img', { class: 'chart', alt, src: address });
  const frame = h('a', { href: address, target: '_blank', rel: 'noopener', title: t('openChart'), 'data-key': path });
  frame.append(image);
  image.addEventListener('error', () => frame.replaceWith(empty(t('chartFailed'))));
  return frame;
}

/** @typedef {HTMLInputElement|HTMLTextAreaElement|HTMLSelectElement} Input */

let fields = 0;

/** @param {string} label @param {Input} input */
export function field(label, input, hint = '') {
  const id = `field-${fields += 1}`;
  input.id = id;
  if (hint) input.setAttribute('aria-describedby', `${id}-hint`);
  const note = hint ? [h('small', { id: `${id}-hint` }, hint)] : [];
  return h('div', { class: 'field' }, h('label', { for: id }, label), input, ...note);
}

/** @param {string[][]} options each value with its words @param {string} chosen */
export function select(options, chosen, props = {}) {
  const choices = options.map(([value, name]) => h('option', { value, selected: value === chosen }, name));
  return h('select', props, ...choices);
}

// --- what the person is told ---

const good = h('div', { role: 'status' });
const bad = h('div', { role: 'alert' });

/** Where notices appear. It must be on the page before the first one, or a screen reader does not announce that. */
export function noticeRegion() {
  good.replaceChildren();
  bad.replaceChildren();
  return h('div', { class: 'notices' }, bad, good);
}

/**
 * @param {string} text
 * @param {'good'|'bad'} [tone] what went well goes away by itself
 * @param {{label: string, onclick: () => void}|null} [action] what may be done about it
 */
export function notify(text, tone = 'good', action = null) {
  const close = h('button', {
    type: 'button', class: 'tool', 'aria-label': t('dismiss'), onclick: () => note.remove(),
  }, icon('close'));
  const act = action ? [button(action.label, () => { note.remove(); action.onclick(); }, 'small')] : [];
  const note = h('div', { class: `notice ${tone}` }, h('p', {}, text), ...act, close);
  const region = tone === 'good' ? good : bad;
  [...region.children].find((one) => one.firstChild?.textContent === text)?.remove();
  region.append(note);
  if (tone === 'good') setTimeout(() => note.remove(), action ? 15_000 : 6000);
}

/** @param {unknown} error */
export function errorText(error) {
  if (!(error instanceof ApiError)) return (error instanceof Error && error.message) || t('failed');
  if (error.status === 0) {
    const why = error.code === 'slow' ? t('slow') : t('unreachable');
    return error.isWrite ? `${why} ${t('perhapsDone')}` : why;
  }
  const reference = error.status >= 500 && error.requestId ? ` ${t('reference', { id: error.requestId })}` : '';
  const hint = error.hint ? ` ${word('hint', error.hint)}` : '';
  return `${error.message || t('failed')}${hint}${reference}`;
}

/** Tells of what failed, but for a login that is over: its page tells that. @param {unknown} error */
function tellFailure(error) {
  if (statusOf(error) !== 401) notify(errorText(error), 'bad');
}

/** Runs an action, tells of its failure, and says whether it went well. @param {() => unknown} action */
export async function attempt(action, success = '') {
  try {
    await action();
    if (success) notify(success);
    return true;
  } catch (error) {
    tellFailure(error);
    return false;
  }
}

/** @typedef {{name: string, label: string, input: Input, needed?: boolean, hint?: string}} Field */
/**
 * @typedef {object} Question
 * @property {string} title
 * @property {(string|Node)[]} [lines]
 * @property {string} action  the words of the button that does it
 * @property {boolean} [danger]
 * @property {string} [typed]  a word that has to be typed first
 * @property {string} [success]  told when it is done
 * @property {Field[]} [fields]
 * @property {(answer: Record<string, string>) => Promise<any>} [act]
 */

/**
 * Asks before something is done, and does it. Where that fails, the question stays, with what was filled in, and says
 * why.
 * @param {Question} question
 * @returns {Promise<any>} what `act` gave, or null where it was not done
 */
export function ask(question) {
  const { title, lines = [], action, danger = false, typed = '', success = '', fields: wanted = [] } = question;
  const { act = async (answer) => answer } = question;
  const typedInput = h('input', { type: 'text', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' });
  const go = h('button', { type: 'submit', class: `button ${danger ? 'danger' : 'primary'}` }, action);
  const cancel = button(t('cancel'), () => dialog.close());
  const inputs = wanted.map(({ label, input, hint }) => field(label, input, hint));
  if (typed) inputs.push(field(t('typeToConfirm', { word: typed }), typedInput));
  const problem = h('p', { class: 'problem', role: 'alert' });
  const form = h('form', { method: 'dialog', novalidate: true }, h('h2', { id: 'ask-title' }, title),
    ...lines.map((line) => (typeof line === 'string' ? h('p', {}, line) : line)), ...inputs, problem,
    h('div', { class: 'actions' }, cancel, go));
  const dialog = h('dialog', { 'aria-labelledby': 'ask-title' }, form);
  const isReady = () => (!typed || typedInput.value.trim() === typed)
    && wanted.every(({ input, needed }) => !needed || input.value.trim());
  let busy = false;
  const update = () => { go.disabled = busy || !isReady(); };
  form.addEventListener('input', (event) => {
    if (event.target instanceof Element) event.target.removeAttribute('aria-invalid');
    update();
  });
  update();
  document.body.append(dialog);
  return new Promise((resolve) => {
    form.addEventListener('submit', async (event) => {
      event.preventDefault();
      if (busy || !isReady()) return;
      setBusy(true);
      problem.textContent = '';
      try {
        const done = await act(Object.fromEntries(wanted.map(({ name, input }) => [name, input.value.trim()])));
        if (success) notify(success);
        resolve(done);
        dialog.close();
      } catch (error) {
        setBusy(false);
        tell(error);
      }
    });
    dialog.addEventListener('close', () => {
      dialog.remove();
      if (!busy) resolve(null);
    });
    const focusAgain = focusKeeper(document.body);
    dialog.addEventListener('close', focusAgain);
    dialog.showModal();
    (wanted[0]?.input ?? (typed ? typedInput : cancel)).focus();

    function setBusy(now) {
      busy = now;
      cancel.disabled = now;
      update();
    }

    /** @param {unknown} error */
    function tell(error) {
      if (!dialog.open) { // closed by the keyboard meanwhile, or with the login
        tellFailure(error);
        resolve(null);
        return;
      }
      problem.textContent = errorText(error);
      const at = fieldOf(error);
      const wrong = at === 'typed' ? typedInput : wanted.find(({ name }) => name === at)?.input;
      wrong?.setAttribute('aria-invalid', 'true');
      (wrong ?? go).focus();
    }
  });
}

/** So long after the last key, a person has probably finished typing. */
const TYPING_MS = 250;

/** Runs an action once somebody has stopped typing. @param {() => unknown} action */
export function debounced(action) {
  let waiting = 0;
  return () => {
    clearTimeout(waiting);
    waiting = setTimeout(action, TYPING_MS);
  };
}

// --- pages that follow what happens ---

/**
 * Notes what has the focus within `container`.
 * @param {HTMLElement} container
 * @returns {() => void} puts the focus back on that, or on what has taken its place; where nothing has, on the heading
 */
function focusKeeper(container) {
  const focused = container.contains(document.activeElement) ? focusedElement() : null;
  const key = focused?.dataset.key ?? '';
  /** @returns {NodeListOf<HTMLElement>} */
  const alike = () => container.querySelectorAll(`[data-key="${CSS.escape(key)}"]`);
  const place = key && focused ? [...alike()].indexOf(focused) : -1;
  return () => {
    if (!focused || focused === document.body || focused.isConnected) return;
    const now = key ? alike() : [];
    const next = now[place] ?? now[0] ?? document.querySelector('h1');
    next?.focus({ preventScroll: true });
  };
}

/** @typedef {string|Node|(string|Node)[]} Content */
/** @typedef {(force?: boolean) => Promise<void>} Refresh  draws again what has changed, or whatever came */

/**
 * Draws what `load` fetches into `container`, again only where it has changed. The focus stays, and so does what was
 * opened. While `isBusy`, the page asks for news often.
 * @template V
 * @param {HTMLElement} container
 * @param {() => Promise<V>} load
 * @param {(value: V) => Content} draw
 * @param {(value: V) => unknown} [isBusy]
 * @returns {Refresh} fetches and draws again
 */
export function live(container, load, draw, isBusy = () => false) {
  /** @type {string|null} */
  let last = null;
  return async (force = false) => {
    const value = await load();
    const text = JSON.stringify(value);
    if (text === last && !force) return;
    last = text;
    container.toggleAttribute('data-busy', Boolean(isBusy(value)));
    const focusAgain = focusKeeper(container);
    const opened = new Set(keyedDetails(container).filter((one) => one.open).map((one) => one.dataset.key));
    container.replaceChildren(...[draw(value)].flat());
    for (const one of keyedDetails(container)) one.open = opened.has(one.dataset.key);
    focusAgain();
  };
}

/** @param {HTMLElement} container */
function keyedDetails(container) {
  return [...container.querySelectorAll('details')].filter((one) => one.dataset.key);
}

/** An address, as a link only where it leads to the web: what an article says of itself is not to be run. */
export function address(text) {
  if (!/^https?:\/\//i.test(text)) return h('span', { class: 'break' }, text);
  return h('a', { class: 'break', href: text, target: '_blank', rel: 'noopener noreferrer', 'data-key': text }, text);
}

/**
 * A link within the admin page.
 * @param {string} page
 * @param {string} text
 * @param {...string} rest of the address
 */
export function link(page, text, ...rest) {
  const href = `#/${[page, ...rest].map(encodeURIComponent).join('/')}`;
  return h('a', { href, 'data-key': href }, text);
}
