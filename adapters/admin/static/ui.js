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

/** Says again how long ago each moment on the page is. */
export function freshenTimes() {
  for (const node of document.querySelectorAll('time[datetime]')) {
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

/** @param {'good'|'bad'|'busy'|''} tone */
export function badge(text, tone = '') {
  return h('span', { class: `badge ${tone}`.trim() }, text);
}

export function button(label, onclick, kind = '') {
  return h('button', { type: 'button', class: `button ${kind}`.trim(), onclick, 'data-key': typeof label === 'string' ? label : null }, label);
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
  return h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption, 'data-key': caption },
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
  const frame = h('a', { href: address, target: '_blank', rel: 'noopener', title: t('openChart'), 'data-key': path }, image);
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

const good = h('div', { role: 'status' });
const bad = h('div', { role: 'alert' });

/** Where notices appear. It must be on the page before the first one, or a screen reader does not announce that. */
export function noticeRegion() {
  good.replaceChildren();
  bad.replaceChildren();
  return h('div', { class: 'notices' }, bad, good);
}

/**
 * @param {'good'|'bad'} [tone] what went well goes away by itself
 * @param {{label: string, onclick: () => void}} [action] what may be done about it
 */
export function notify(text, tone = 'good', action = null) {
  const close = h('button', { type: 'button', class: 'tool', 'aria-label': t('dismiss'), onclick: () => note.remove() }, icon('close'));
  const act = action ? [button(action.label, () => { note.remove(); action.onclick(); }, 'small')] : [];
  const note = h('div', { class: `notice ${tone}` }, h('p', {}, text), ...act, close);
  const region = tone === 'good' ? good : bad;
  [...region.children].find((one) => one.firstChild.textContent === text)?.remove();
  region.append(note);
  if (tone === 'good') setTimeout(() => note.remove(), action ? 15_000 : 6000);
}

export function errorText(error) {
  if (error.status === 0) return error.isWrite ? `${t(error.code)} ${t('perhapsDone')}` : t(error.code);
  const reference = error.status >= 500 && error.requestId ? ` ${t('reference', { id: error.requestId })}` : '';
  const hint = error.hint ? ` ${t(`hint_${error.hint}`)}` : '';
  return `${error.message || t('failed')}${hint}${reference}`;
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
 * Asks before something is done, and does it. Where that fails, the question stays, with what was filled in, and says
 * why. Resolves with what `act` gave, or null where it was not done.
 * @param {{title: string, lines?: (string|Node)[], action: string, danger?: boolean, typed?: string, success?: string,
 *   act?: (answer: Record<string, string>) => Promise<unknown>,
 *   fields?: {name: string, label: string, input: HTMLElement, needed?: boolean, hint?: string}[]}} what
 *   `typed` is a word that has to be typed first
 */
export function ask({ title, lines = [], action, danger = false, typed = '', success = '', act = async (answer) => answer, fields: wanted = [] }) {
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
    event.target.removeAttribute('aria-invalid');
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
    (inputs.length ? form.querySelector('input, textarea, select') : cancel).focus();

    function setBusy(now) {
      busy = now;
      cancel.disabled = now;
      update();
    }

    function tell(error) {
      if (!dialog.open) { // closed by the keyboard meanwhile, or with the login
        if (error.status !== 401) notify(errorText(error), 'bad');
        resolve(null);
        return;
      }
      problem.textContent = errorText(error);
      const wrong = wanted.find(({ name }) => name === error.field)?.input ?? (error.field === 'typed' ? typedInput : null);
      wrong?.setAttribute('aria-invalid', 'true');
      (wrong ?? go).focus();
    }
  });
}

/** So long after the last key, a person has probably finished typing. */
const TYPING_MS = 250;

/** Runs an action once somebody has stopped typing. */
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
 * @returns {() => void} puts the focus back on that, or on what has taken its place; where nothing has, on the heading
 */
function focusKeeper(container) {
  const focused = container.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.dataset.key;
  const alike = () => [...container.querySelectorAll(`[data-key="${CSS.escape(key)}"]`)];
  const place = key ? alike().indexOf(focused) : -1;
  return () => {
    if (!focused || focused === document.body || focused.isConnected) return;
    const now = key ? alike() : [];
    (now[place] ?? now[0] ?? document.querySelector('main h1'))?.focus({ preventScroll: true });
  };
}

/**
 * Draws what `load` fetches into `container`, again only where it has changed. The focus stays, and so does what was
 * opened. While `isBusy`, the page asks for news often.
 * @returns {() => Promise<void>} fetches and draws again
 */
export function live(container, load, draw, isBusy = () => false) {
  let last = null;
  return async (force = false) => {
    const value = await load();
    const text = JSON.stringify(value);
    if (text === last && force !== true) return;
    last = text;
    container.toggleAttribute('data-busy', Boolean(isBusy(value)));
    const focusAgain = focusKeeper(container);
    const opened = [...container.querySelectorAll('details[open][data-key]')].map((one) => one.dataset.key);
    container.replaceChildren(...[draw(value)].flat());
    for (const one of container.querySelectorAll('details[data-key]')) one.open = opened.includes(one.dataset.key);
    focusAgain();
  };
}

/** An address, as a link only where it leads to the web: what an article says of itself is not to be run. */
export function address(text) {
  if (!/^https?:\/\//i.test(text)) return h('span', { class: 'break' }, text);
  return h('a', { class: 'break', href: text, target: '_blank', rel: 'noopener noreferrer', 'data-key': text }, text);
}

/** A link within the admin page. */
export function link(page, text, ...rest) {
  const href = `#/${[page, ...rest].map(encodeURIComponent).join('/')}`;
  return h('a', { href, 'data-key': href }, text);
}
