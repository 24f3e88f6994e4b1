/** Small DOM helpers shared by every part of the interface. */

import { h, ICON_SHAPE, svg } from './element.js';

export { h };

/** A drawing is on a grid of 24: the path of each stroke. */
const ICONS = {
  send: ['M12 19V5.5', 'M6 11l6-6 6 6'],
  stop: ['M7.5 7.5h9v9h-9z'],
  plus: ['M12 5v14', 'M5 12h14'],
  close: ['M6 6l12 12', 'M18 6L6 18'],
  menu: ['M4 7h16', 'M4 12h16', 'M4 17h10'],
  down: ['M12 5v13.5', 'M6 13l6 6 6-6'],
  copy: ['M9 9h10.5v10.5H9z', 'M15 9V4.5H4.5V15H9'],
  done: ['M5 12.5l4.5 4.5L19 7.5'],
  retry: ['M19.5 12a7.5 7.5 0 1 1-2.4-5.5', 'M19.5 3.5v4.2h-4.2'],
  edit: ['M4.5 19.5l.9-4L15.8 5.1a1.8 1.8 0 0 1 2.5 0l.6.6a1.8 1.8 0 0 1 0 2.5L8.5 18.6z', 'M13.8 7.1l3.1 3.1'],
  alert: ['M12 7.5v5.5', 'M12 16.4v.1', 'M12 3.5a8.5 8.5 0 1 1 0 17 8.5 8.5 0 0 1 0-17z'],
  'thumb-good': [
    'M7.5 10.5v9.5H4v-9.5z',
    'M7.5 10.5l4.2-7a2 2 0 0 1 2.3 2.5l-.9 3.5h5a2 2 0 0 1 2 2.4l-1.3 6.5a2 2 0 0 1-2 1.6H7.5',
  ],
  'thumb-bad': [
    'M7.5 13.5V4H4v9.5z',
    'M7.5 13.5l4.2 7a2 2 0 0 0 2.3-2.5l-.9-3.5h5a2 2 0 0 0 2-2.4l-1.3-6.5a2 2 0 0 0-2-1.6H7.5',
  ],
  shield: ['M12 3.5l7 2.6v5.4c0 4.2-2.9 7.4-7 9-4.1-1.6-7-4.8-7-9V6.1z', 'M9 12l2.2 2.2L15.3 10'],
  sidebar: ['M4 5.5h16v13H4z', 'M9.5 5.5v13'],
};

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  return svg('svg', { class: 'icon', ...ICON_SHAPE }, ...ICONS[name].map((d) => svg('path', { d })));
}

const HEAD = 'M13.2 3.2c6.3 0 10.6 4.6 10.6 10.7 0 6.2-4.4 10.8-10.7 10.8-1.3 0-2.5-.2-3.6-.5L4 28.4'
  + 'c-.6.4-1.3-.1-1.1-.8l1.3-6.1c-1.2-1.9-1.8-4.2-1.8-6.7C2.4 8.3 7 3.2 13.2 3.2z';

/** The Myna mark: a speech bubble that is a bird's head. The head takes the text colour. */
export function logo() {
  return svg('svg', { class: 'logo', viewBox: '0 0 32 32', 'aria-hidden': 'true', focusable: 'false' },
    svg('path', { fill: '#f4a924', d: 'M21.5 9.2l9.3 4.3c.5.3.5.9 0 1.1l-9.3 1.9z' }),
    svg('path', { fill: '#dd8a10', d: 'M21.5 17.2l6.3.9c.6.1.7.7.2 1l-6.5 3.3z' }),
    svg('path', { fill: 'currentColor', d: HEAD }),
    svg('path', { fill: '#f4a924', d: 'M12 12.2c1.3 2.8 4 3.7 7.6 2.7-.9 3-4.2 4.5-6.9 2.9-1.9-1.2-2-3.9-.7-5.6z' }),
    svg('circle', { fill: '#fff', cx: '16.4', cy: '11.2', r: '2.7' }),
    svg('circle', { fill: '#14282a', cx: '17.1', cy: '11.2', r: '1.4' }));
}

/**
 * An icon button whose label is both its accessible name and its tooltip.
 * @param {keyof typeof ICONS} name
 * @param {string} label
 * @param {() => unknown} onclick
 */
export function iconButton(name, label, onclick, className = '') {
  const button = h('button', { type: 'button', class: `tool ${className}`.trim(), onclick }, icon(name));
  setLabel(button, label);
  return button;
}

/** @param {HTMLElement} button @param {string} label */
export function setLabel(button, label) {
  button.setAttribute('aria-label', label);
  button.title = label;
}

/** @param {string} css */
export function stylesheet(css) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(css);
  return sheet;
}

/** An unguessable id. randomUUID exists only in secure contexts, and http on a local network is none. */
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Local storage that forgets on reload where the browser blocks it. */
export const storage = {
  memory: new Map(),
  get(key) {
    try {
      return localStorage.getItem(key) ?? this.memory.get(key) ?? null;
    } catch {
      return this.memory.get(key) ?? null;
    }
  },
  set(key, value) {
    this.memory.set(key, value);
    try {
      localStorage.setItem(key, value);
    } catch { /* blocked or full: memory has it */ }
  },
  remove(key) {
    this.memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch { /* blocked */ }
  },
};

/** @param {string} text */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
}

/** @returns {HTMLElement|null} */
export function focusedElement() {
  return document.activeElement instanceof HTMLElement ? document.activeElement : null;
}

// The clipboard API is missing on plain http.
function copyBySelection(text) {
  const focused = focusedElement();
  const area = h('textarea', { readonly: true, 'aria-hidden': 'true' });
  area.value = text;
  area.style.position = 'fixed';
  area.style.opacity = '0';
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  focused?.focus();
}

const policy = makePolicy();

/** @returns {{createHTML: (html: string) => any}|null} */
function makePolicy() {
  const rules = { createHTML: (/** @type {string} */ html) => html };
  // Newer than the types of the DOM that the check knows.
  const { trustedTypes } = /** @type {{trustedTypes?: any}} */ (globalThis);
  try {
    return trustedTypes ? trustedTypes.createPolicy('myna', rules) : rules;
  } catch {
    return null; // A host page that does not list the policy gets plain text.
  }
}

/**
 * Parses HTML that the server has sanitised. Null where the page forbids it.
 * @param {string} html
 * @returns {DocumentFragment|null}
 */
export function parseSanitised(html) {
  if (!policy) return null;
  const template = document.createElement('template');
  // eslint-disable-next-line no-restricted-syntax -- the one place where HTML is parsed
  template.innerHTML = policy.createHTML(html);
  return template.content;
}
