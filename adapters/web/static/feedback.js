import { h, iconButton } from './dom.js';

const MAX_CHARS = 3000;

/** @typedef {import('./conversation.js').Message} Message */
/**
 * @typedef {object} Options
 * @property {import('./strings.js').Translate} t
 * @property {(message: Message, value: -1|0|1, words?: {reason: string, better: string}) => Promise<boolean>} onVote
 *   false where it could not be stored, which has then been told
 * @property {(text: string) => void} onAnnounce
 */

/** What a person thinks of one reply: two thumbs, and a form after a thumb down. */
export class ReplyFeedback {
  #options;
  /** The reply as it was last drawn. @type {Message} */
  #message;
  #votable = false;
  #open = false;
  /** @type {{element: HTMLFormElement, reason: HTMLTextAreaElement, better: HTMLTextAreaElement}|null} */
  #made = null;
  #thanks;

  /** @param {Message} message @param {Options} options */
  constructor(message, options) {
    this.#message = message;
    this.#options = options;
    this.good = this.#thumb('good', 1);
    this.bad = this.#thumb('bad', -1);
    this.#thanks = h('span', { class: 'thanks', 'aria-hidden': 'true' }); // said by the status line
    this.#thanks.hidden = true;
    /** Beside the other buttons of a reply. */
    this.buttons = [this.good, this.bad];
    this.note = this.#thanks;
    /** Below them. */
    this.place = h('div', { class: 'feedback' });
    this.place.hidden = true;
    this.more = h('button', { type: 'button', class: 'link more', onclick: () => this.#openForm(true) });
    this.more.hidden = true;
  }

  /** @param {Message} message @param {boolean} votable */
  update(message, votable) {
    this.#message = message;
    this.#votable = votable;
    const value = message.vote?.value ?? 0;
    this.good.setAttribute('aria-pressed', String(value === 1));
    this.bad.setAttribute('aria-pressed', String(value === -1));
    for (const button of this.buttons) button.hidden = !votable;
    const { t } = this.#options;
    this.more.textContent = t(message.vote?.reason || message.vote?.better ? 'changeWords' : 'sayMore');
    if (value !== -1) this.#close();
    this.more.hidden = !votable || value !== -1 || this.#open;
  }

  /** @param {'good'|'bad'} name @param {-1|1} value */
  #thumb(name, value) {
    const { t } = this.#options;
    return iconButton(`thumb-${name}`, t(name), () => this.#press(value), 'thumb');
  }

  async #press(value) {
    const { t, onVote, onAnnounce } = this.#options;
    const withdrawn = this.#message.vote?.value === value;
    this.#say('');
    if (value === -1 && !withdrawn) this.#openForm(matchMedia('(hover: hover)').matches);
    const stored = await onVote(this.#message, withdrawn ? 0 : value);
    if (!stored) return;
    const said = withdrawn ? t('withdrawn') : t('thanks');
    if (!this.#open) this.#say(said);
    onAnnounce(said);
  }

  #say(text) {
    this.#thanks.textContent = text;
    this.#thanks.hidden = !text;
  }

  // --- the form ---

  /** Made for those who open it. */
  get #form() {
    this.#made ??= this.#makeForm();
    return this.#made;
  }

  #openForm(takesFocus) {
    if (this.#open) return;
    this.#open = true;
    const { vote } = this.#message;
    this.#form.reason.value ||= vote?.reason ?? '';
    this.#form.better.value ||= vote?.better ?? '';
    this.place.replaceChildren(this.#form.element);
    this.place.hidden = false;
    this.more.hidden = true;
    this.#say('');
    if (takesFocus) this.#form.reason.focus({ preventScroll: true });
    this.place.scrollIntoView({ block: 'nearest' });
  }

  #makeForm() {
    const { t } = this.#options;
    const [reason, better] = [area('2'), area('3')];
    const element = h('form', {
      class: 'card',
      novalidate: true,
      'aria-label': t('feedbackForm'),
      onsubmit: (event) => this.#submit(event),
      onkeydown: (event) => this.#onKey(event),
    },
    h('label', {}, t('whatWasWrong'), reason),
    h('label', {}, t('betterAnswer'), better),
    h('div', { class: 'card-buttons' },
      h('button', { type: 'submit', class: 'primary' }, t('sendFeedback')),
      h('button', { type: 'button', class: 'link', onclick: () => this.#cancel() }, t('notNow'))));
    return { element, reason, better };
  }

  async #submit(event) {
    event.preventDefault();
    const { t, onVote, onAnnounce } = this.#options;
    const words = { reason: this.#form.reason.value.trim(), better: this.#form.better.value.trim() };
    const isEmpty = !words.reason && !words.better;
    const { vote } = this.#message;
    if (isEmpty && !vote?.reason && !vote?.better) {
      this.#cancel();
      return;
    }
    if (!await onVote(this.#message, -1, words)) return; // what was written stays
    const focused = this.#form.element.matches(':focus-within');
    this.#close();
    const said = t(isEmpty ? 'wordsTakenBack' : 'thanksForWords');
    this.#say(said);
    onAnnounce(said);
    if (focused) this.bad.focus();
  }

  #onKey(event) {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === 'Escape') {
      event.preventDefault();
      event.stopPropagation();
      this.#cancel();
    } else if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.#form.element.requestSubmit();
    }
  }

  #cancel() {
    this.#close();
    this.bad.focus();
  }

  #close() {
    if (!this.#open) return;
    this.#open = false;
    this.place.hidden = true;
    this.more.hidden = !this.#votable || this.#message.vote?.value !== -1;
  }
}

/** @param {string} rows */
function area(rows) {
  return h('textarea', { rows, maxlength: String(MAX_CHARS), dir: 'auto' });
}
