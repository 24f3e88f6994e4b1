import { h, icon, iconButton } from './dom.js';

const WARN_FROM = 0.8;

/**
 * @typedef {object} Options
 * @property {import('./strings.js').Translate} t
 * @property {(text: string, origin: {id?: string, replaces: string|null}) => void} onSend
 * @property {() => void} onStop
 * @property {() => void} onEditLast
 */

/** The box to write in. */
export class Composer {
  #options;
  #busy = false;
  #limit = Infinity;
  /** @type {import('./conversation.js').Unsent|null} */
  #unsent = null;
  /** @type {string|null} */
  #replaces = null;
  #draft = '';
  #count = h('p', { class: 'count', id: 'count', hidden: true });

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    const { t } = options;
    this.input = h('textarea', {
      rows: '1',
      dir: 'auto',
      enterkeyhint: 'send',
      autocomplete: 'off',
      placeholder: t('placeholder'),
      'aria-label': t('inputLabel'),
      'aria-describedby': 'hint count',
      oninput: () => this.#refresh(),
      onkeydown: (event) => this.#onKey(event),
    });
    this.sendButton = iconButton('send', t('send'), () => {}, 'round send');
    this.sendButton.type = 'submit';
    this.stopButton = iconButton('stop', t('stop'), () => this.#stop(), 'round stop');
    this.banner = h('div', { class: 'banner' }, icon('edit'), h('span', {}, t('editing')),
      iconButton('close', t('cancelEdit'), () => this.cancelEdit()));
    this.element = h('form', { class: 'composer', novalidate: true, onsubmit: (event) => this.#onSubmit(event) },
      this.banner,
      h('div', { class: 'box' }, this.input, this.stopButton, this.sendButton),
      h('div', { class: 'below' }, h('p', { class: 'hint', id: 'hint' }, t('inputHint')), this.#count));
    this.banner.hidden = true;
    this.#refresh();
  }

  set limit(chars) {
    this.#limit = chars || Infinity;
    this.#refresh();
  }

  set busy(busy) {
    if (busy === this.#busy) return;
    const lost = !busy && this.stopButton.matches(':focus');
    this.#busy = busy;
    this.stopButton.disabled = false;
    this.#refresh();
    if (lost) this.focus();
  }

  get editing() {
    return this.#replaces !== null;
  }

  get empty() {
    return !this.input.value.trim();
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  /** @param {import('./conversation.js').Message} message */
  edit(message) {
    if (!this.editing) this.#draft = this.input.value;
    this.#replaces = message.id;
    this.#unsent = null;
    this.#fill(message.text);
  }

  cancelEdit() {
    this.#replaces = null;
    this.#fill(this.#draft);
    this.#draft = '';
  }

  /** Puts a message back that could not be sent. @param {import('./conversation.js').Unsent} unsent */
  restore(unsent) {
    const written = this.input.value;
    this.#unsent = unsent;
    this.#replaces = unsent.replaces;
    this.#fill(written.trim() ? `${unsent.text}\n\n${written}` : unsent.text);
  }

  /**
   * Forgets the unsent message when it arrived after all.
   * @param {(id: string) => boolean} arrived
   */
  settle(arrived) {
    const unsent = this.#unsent;
    if (!unsent || !arrived(unsent.id)) return false;
    this.#unsent = null;
    if (this.input.value === unsent.text) this.clear();
    return true;
  }

  /**
   * Go on with what is written in another one, in other words.
   * @param {Composer} other
   */
  takeOver(other) {
    this.#unsent = other.#unsent;
    this.#replaces = other.#replaces;
    this.#draft = other.#draft;
    this.#limit = other.#limit;
    this.#busy = other.#busy;
    this.stopButton.disabled = other.stopButton.disabled;
    this.#set(other.input.value);
  }

  clear() {
    this.#unsent = null;
    this.#replaces = null;
    this.#draft = '';
    this.#set('');
  }

  submit() {
    const text = this.input.value.trim();
    if (!text || this.#over() > 0) return;
    // Unchanged text goes under its first id, so that it cannot be sent twice.
    const id = text === this.#unsent?.text ? this.#unsent.id : undefined;
    const replaces = this.#replaces;
    const draft = this.#draft;
    this.clear();
    this.#set(draft);
    this.focus();
    this.#options.onSend(text, { id, replaces });
  }

  #fill(text) {
    this.#set(text);
    this.focus();
    this.input.setSelectionRange(text.length, text.length);
  }

  #set(text) {
    this.input.value = text;
    this.#refresh();
  }

  #stop() {
    this.stopButton.disabled = true;
    this.#options.onStop();
    this.focus();
  }

  #onSubmit(event) {
    event.preventDefault();
    this.submit();
  }

  #onKey(event) {
    // 229: Safari reports the Enter that ends a composition this way.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.submit();
    } else if (event.key === 'ArrowUp' && !this.input.value && !this.editing) {
      event.preventDefault();
      this.#options.onEditLast();
    } else if (event.key === 'Escape' && this.editing) {
      event.preventDefault();
      event.stopPropagation();
      this.cancelEdit();
    }
  }

  #over() {
    const { value } = this.input;
    return value.length <= this.#limit ? value.length - this.#limit : [...value].length - this.#limit;
  }

  #refresh() {
    const over = this.#over();
    this.banner.hidden = !this.editing;
    this.sendButton.disabled = this.empty || over > 0;
    this.stopButton.hidden = !this.#busy;
    this.sendButton.hidden = this.#busy && this.empty;
    this.#showCount(over);
    this.#grow();
  }

  #showCount(over) {
    const { t } = this.#options;
    const near = over > -this.#limit * (1 - WARN_FROM);
    this.#count.hidden = !near;
    this.#count.classList.toggle('over', over > 0);
    this.#count.textContent = near ? t(over > 0 ? 'charsOver' : 'charsLeft', { n: Math.abs(over) }) : '';
    this.input.setAttribute('aria-invalid', String(over > 0));
  }

  #grow() {
    this.input.style.height = 'auto';
    this.input.style.height = `${this.input.scrollHeight}px`;
  }
}
