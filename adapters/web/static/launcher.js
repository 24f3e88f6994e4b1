import { h, icon, logo, setLabel, stylesheet } from './dom.js';
import { language } from './strings.js';
import { base, tokens } from './styles.js';

const PHONE = '(max-width: 520px), (max-height: 420px)';

const sheets = [tokens, base, `
:host { all: initial !important; position: static !important; }
.root { font: 16px/1.5 var(--myna-font); }
.launcher {
  position: fixed; z-index: 2147483000; inset: auto 20px calc(20px + env(safe-area-inset-bottom)) auto;
  display: grid; place-items: center; width: 60px; height: 60px; padding: 0; border: 0; border-radius: 50%;
  background: var(--myna-accent); color: var(--myna-on-accent); cursor: pointer;
  box-shadow: 0 2px 6px rgb(0 0 0 / .16), 0 10px 28px rgb(0 0 0 / .22); transition: transform .16s;
}
.launcher:hover { transform: translateY(-2px); }
.launcher .logo { width: 34px; height: 34px; color: inherit; }
.launcher .icon { width: 26px; height: 26px; }
.launcher:focus-visible { outline: 3px solid var(--myna-focus); outline-offset: 3px; }
.badge {
  position: absolute; inset: 1px 1px auto auto; width: 16px; height: 16px; border-radius: 50%;
  background: #f4a924; border: 2px solid var(--myna-surface);
}
.panel {
  position: fixed; z-index: 2147483001; inset: auto 20px calc(94px + env(safe-area-inset-bottom)) auto;
  width: min(400px, calc(100vw - 40px)); height: min(680px, calc(100dvh - 124px));
  border-radius: 20px; overflow: hidden; background: var(--myna-bg);
  box-shadow: 0 0 0 1px var(--myna-line), 0 4px 12px rgb(0 0 0 / .1), 0 18px 60px rgb(0 0 0 / .24);
  animation: rise .18s ease-out;
}
.left .launcher, .left .panel { right: auto; left: 20px; }
@media ${PHONE} {
  .panel { inset: 0 !important; width: auto; height: 100dvh; border-radius: 0; }
  .panel:not([hidden]) + .launcher { display: none; }
}
@keyframes rise { from { opacity: 0; transform: translateY(12px); } }
`].map(stylesheet);

/** @typedef {import('./chat.js').MynaChat} MynaChat */

/** The round button on a foreign page, and the panel it opens. */
export class Launcher {
  #options;
  #t;
  /** @type {MynaChat|null} */
  #chat = null;
  /** @type {Promise<MynaChat>|null} */
  #loading = null;
  /** @type {Map<string, Set<(detail: object) => void>>} */
  #listeners = new Map();
  #phone = matchMedia(PHONE);
  badge = h('span', { class: 'badge', hidden: true });
  panel = h('div', { class: 'panel', role: 'dialog', hidden: true });
  button = h('button', {
    type: 'button',
    class: 'launcher',
    'aria-haspopup': 'dialog',
    onclick: () => this.toggle(),
    onpointerenter: () => this.#warm(),
    onfocus: () => this.#warm(),
  });

  /** @param {{origin: string, lang?: string, title?: string, color?: string, position?: string}} options */
  constructor(options) {
    this.#options = options;
    const { lang, t } = language(options.lang);
    this.#t = t;
    this.panel.setAttribute('aria-label', options.title || 'Myna');
    this.#drawButton();
    const side = options.position === 'left' ? 'left' : 'right';
    this.element = document.createElement('myna-widget');
    const root = this.element.attachShadow({ mode: 'open' });
    root.adoptedStyleSheets = sheets;
    root.append(h('div', { class: `root ${side}`, lang, onkeydown: (event) => this.#onKey(event) },
      this.panel, this.button));
    this.#paint(options.color);
    this.#phone.addEventListener('change', () => this.#drawButton());
    this.#followKeyboard();
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  async open() {
    if (this.isOpen) return;
    this.panel.hidden = false;
    this.badge.hidden = true;
    this.#drawButton();
    this.#emit('open');
    const chat = await this.#load();
    if (this.isOpen) chat.focusInput();
  }

  close() {
    if (!this.isOpen) return;
    this.panel.hidden = true;
    this.#drawButton();
    this.button.focus();
    this.#emit('close');
  }

  toggle() {
    return this.isOpen ? this.close() : this.open();
  }

  /** Forgets the visitor: for a log-out on the host page. */
  async reset() {
    const chat = await this.#load();
    await chat.reset();
    this.#emit('reset');
  }

  /**
   * Events: open, close, message, reply, reset.
   * @param {string} event
   * @param {(detail: object) => void} fn
   * @returns {() => void} takes the listener off
   */
  on(event, fn) {
    /** @type {Set<(detail: object) => void>} */
    const set = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, set.add(fn));
    return () => set.delete(fn);
  }

  #emit(event, detail = {}) {
    for (const fn of this.#listeners.get(event) ?? []) fn(detail);
  }

  #warm() {
    this.#load().catch(() => {});
  }

  #drawButton() {
    const label = this.isOpen ? 'close' : this.badge.hidden ? 'open' : 'openUnread';
    setLabel(this.button, this.#t(label));
    this.button.setAttribute('aria-expanded', String(this.isOpen));
    this.button.replaceChildren(this.isOpen ? icon('close') : logo(), this.badge);
    this.panel.setAttribute('aria-modal', String(this.#phone.matches));
  }

  // The host page pays for the chat only when somebody comes near it.
  #load() {
    this.#loading ??= import('./chat.js').then(({ MynaChat }) => this.#addChat(new MynaChat())).catch((error) => {
      this.#loading = null;
      throw error;
    });
    return this.#loading;
  }

  /** @param {MynaChat} chat */
  #addChat(chat) {
    const { origin, lang, title } = this.#options;
    chat.setAttribute('endpoint', origin);
    chat.setAttribute('mode', 'panel');
    if (lang) chat.setAttribute('lang', lang);
    if (title) chat.setAttribute('name', title);
    chat.addEventListener('myna:close', () => this.close());
    chat.addEventListener('myna:ready', () => this.panel.setAttribute('aria-label', chat.name));
    chat.addEventListener('myna:message', (event) => this.#emit('message', detailOf(event)));
    chat.addEventListener('myna:reply', (event) => this.#onReply(detailOf(event)));
    this.panel.append(chat);
    this.#chat = chat;
    return chat;
  }

  #onReply(detail) {
    this.badge.hidden = this.isOpen;
    this.#drawButton();
    this.#emit('reply', detail);
  }

  #onKey(event) {
    if (event.isComposing || !this.isOpen) return;
    if (event.key === 'Escape') {
      event.stopPropagation();
      this.close();
    } else if (event.key === 'Tab' && this.#phone.matches) this.#keepFocus(event);
  }

  // Full screen, nothing else is visible: Tab goes round inside the panel.
  #keepFocus(event) {
    const root = this.#chat?.shadowRoot;
    if (!root) return;
    /** @type {NodeListOf<HTMLElement>} */
    const found = root.querySelectorAll('button, textarea, input, a[href], [tabindex="0"]');
    const stops = [...found].filter((node) => !node.matches(':disabled') && node.checkVisibility());
    const edge = event.shiftKey ? stops[0] : stops.at(-1);
    if (!edge || root.activeElement !== edge) return;
    event.preventDefault();
    (event.shiftKey ? stops.at(-1) : stops[0])?.focus();
  }

  #paint(color) {
    if (!color || !CSS.supports('color', color)) return;
    this.element.style.setProperty('--myna-color', color);
    this.element.style.setProperty('--myna-on-color', readableOn(color));
  }

  // The keyboard of a phone covers a fixed panel; the visual viewport says what is left.
  #followKeyboard() {
    const view = window.visualViewport;
    if (!view) return;
    const fit = () => {
      const full = this.#phone.matches && this.isOpen;
      this.panel.style.height = full ? `${view.height}px` : '';
      this.panel.style.transform = full && view.offsetTop ? `translateY(${view.offsetTop}px)` : '';
    };
    view.addEventListener('resize', fit);
    view.addEventListener('scroll', fit);
    this.#phone.addEventListener('change', fit);
  }
}

/** @param {Event} event @returns {object} */
function detailOf(event) {
  return event instanceof CustomEvent ? event.detail : {};
}

/** Black or white, whichever stands out more on this colour. */
function readableOn(color) {
  const canvas = document.createElement('canvas').getContext('2d');
  if (!canvas) return '#ffffff';
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? '#10191a' : '#ffffff';
}
