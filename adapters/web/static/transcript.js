import { copyText, h, icon, iconButton, logo, parseSanitised, setLabel } from './dom.js';
import { ReplyFeedback } from './feedback.js';

const COPIED_MS = 1600;
const VOTABLE = new Set(['answered', 'stopped']);
const BOTTOM_SLACK_PX = 48;

/** @typedef {import('./conversation.js').Message} Message */
/**
 * @typedef {object} Options
 * @property {import('./strings.js').Translate} t
 * @property {string} lang
 * @property {() => string} name  what the assistant is called
 * @property {() => void} onRetry
 * @property {() => void} onEdit
 * @property {() => void} onCopied
 * @property {import('./feedback.js').Options['onVote']} onVote
 * @property {(text: string) => void} onAnnounce
 */

/** The scrolling list of messages. */
export class Transcript {
  #options;
  /** By the key of their message. @type {Map<string, MessageView>} */
  #views = new Map();
  #list = h('div', { class: 'list' });
  #greeting = h('p', { class: 'greeting', dir: 'auto' });
  #typing;
  #empty;
  #jump;
  #pinned = true;
  #top = 0;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    const { t } = options;
    this.#typing = typingRow();
    this.#empty = h('div', { class: 'empty' }, logo(), this.#greeting);
    this.log = h('div', { class: 'log', role: 'log', tabindex: '0', 'aria-label': t('conversation') },
      this.#empty, this.#list, this.#typing);
    this.#jump = iconButton('down', t('jump'), () => this.scrollToEnd(true), 'jump');
    this.#jump.hidden = true;
    this.element = h('div', { class: 'transcript' }, this.log, this.#jump);
    this.#followScroll();
  }

  set greeting(text) {
    this.#greeting.textContent = text;
  }

  /**
   * Draws what changed.
   * @param {import('./conversation.js').Conversation} chat
   */
  render(chat) {
    const rows = chat.messages.filter((message) => !isBlank(message));
    this.#keepOnly(rows);
    rows.forEach((message, index) => this.#draw(message, index, chat));
    this.#empty.hidden = rows.length > 0 || (chat.saved && !chat.loaded);
    this.#typing.hidden = !chat.busy || rows.at(-1)?.role === 'assistant';
    this.#stay();
  }

  /** The assistant is called something else now. */
  rename() {
    for (const view of this.#views.values()) view.rename();
  }

  /** The text of a message as a person sees it. @param {Message} message */
  plainText(message) {
    return this.#views.get(message.key)?.plainText ?? message.text;
  }

  /** Shows what was shown before the element was moved in the page, which scrolls it to its start. */
  restoreScroll() {
    this.log.scrollTop = this.#top;
    this.#stay();
  }

  /** Goes to the newest message and stays there. */
  scrollToEnd(smooth = false) {
    this.#pinned = true;
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.log.scrollTo({ top: this.log.scrollHeight, behavior: smooth && !calm ? 'smooth' : 'instant' });
    this.#showJump();
  }

  #keepOnly(rows) {
    const keys = new Set(rows.map((message) => message.key));
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      view.element.remove();
      this.#views.delete(key);
    }
  }

  #draw(message, index, chat) {
    let view = this.#views.get(message.key);
    if (!view) {
      view = new MessageView(message, this.#options);
      this.#views.set(message.key, view);
    }
    const place = this.#list.children[index];
    if (place !== view.element) this.#list.insertBefore(view.element, place ?? null);
    view.update(message, {
      canRetry: !chat.busy && message === chat.lastReply,
      canEdit: !chat.busy && message === chat.lastOwn,
    });
  }

  #followScroll() {
    this.log.addEventListener('scroll', () => {
      const { scrollTop, scrollHeight, clientHeight } = this.log;
      this.#top = scrollTop;
      this.#pinned = scrollHeight - scrollTop - clientHeight < BOTTOM_SLACK_PX;
      this.#showJump();
    }, { passive: true });
    const observer = new ResizeObserver(() => this.#stay());
    observer.observe(this.log);
    observer.observe(this.#list);
  }

  #stay() {
    if (this.#pinned) this.log.scrollTop = this.log.scrollHeight;
    this.#showJump();
  }

  #showJump() {
    if (this.#pinned && this.#jump.matches(':focus')) this.log.focus({ preventScroll: true });
    this.#jump.hidden = this.#pinned;
  }
}

function isBlank(message) {
  return message.role === 'assistant' && !message.text && !message.html && (message.live || !message.state);
}

function typingRow() {
  const dots = h('span', { class: 'dots' }, h('i'), h('i'), h('i'));
  const bubble = h('div', { class: 'bubble' }, dots);
  const row = h('div', { class: 'row assistant typing', 'aria-hidden': 'true' }, avatar(), bubble);
  row.hidden = true;
  return row;
}

function avatar() {
  return h('span', { class: 'avatar', 'aria-hidden': 'true' }, logo());
}

/** One message. */
class MessageView {
  #options;
  #rendered = h('div', { class: 'rendered' });
  #tail = document.createTextNode('');
  #tailBox = h('p', { class: 'tail', dir: 'auto' }, this.#tail);
  #bubble = h('div', { class: 'bubble', dir: 'auto', lang: '' }, this.#rendered, this.#tailBox);
  #sources = h('ol', { class: 'sources' });
  #note = h('div', { class: 'note' });
  #time = h('time', { class: 'time' });
  /** @type {string[]} */
  #blocks = [];
  #message;
  /** @type {unknown[]} */
  #shown = [];

  /** @param {Message} message @param {Options} options */
  constructor(message, options) {
    this.#message = message;
    this.#options = options;
    const own = message.role === 'user';
    const { t } = options;
    this.retry = iconButton('retry', t('retry'), () => options.onRetry());
    this.edit = iconButton('edit', t('edit'), () => options.onEdit());
    this.copy = iconButton('copy', t('copy'), () => this.#copy(this.copy, this.#message.text, 'copy'));
    this.feedback = own ? null : new ReplyFeedback(message, options);
    this.actions = h('div', { class: 'actions' },
      ...(this.feedback ? this.#replyActions(this.feedback) : [this.#time, this.edit]));
    // Live text in a log would be read out word by word: the status line speaks once instead.
    this.element = h('article', {
      class: `row ${message.role}`,
      'aria-live': 'off',
    }, ...(own ? [] : [avatar()]), h('div', { class: 'main' }, this.#bubble, this.#sources, this.#note, this.actions,
      ...(this.feedback ? [this.feedback.place] : [])));
    this.rename();
  }

  /** @param {ReplyFeedback} feedback */
  #replyActions({ buttons, note, more }) {
    return [this.copy, ...buttons, this.retry, note, this.#time, more];
  }

  rename() {
    const { t, name } = this.#options;
    this.element.setAttribute('aria-label', this.#message.role === 'user' ? t('youSay') : t('says', { name: name() }));
  }

  get plainText() {
    return this.#bubble.innerText.trim();
  }

  /** @param {Message} message @param {{canRetry: boolean, canEdit: boolean}} offers */
  update(message, { canRetry, canEdit }) {
    this.#message = message;
    this.retry.hidden = !canRetry || message.state === 'failed'; // its note offers the same
    this.edit.hidden = !canEdit;
    const { html, tail, text, state, live, pending, problem, sources } = message;
    this.feedback?.update(message, !live && Boolean(text) && !message.notice && VOTABLE.has(state ?? ''));
    const shown = [html, tail, text, state, live, pending, problem, sources, canRetry];
    if (shown.every((value, index) => value === this.#shown[index])) return;
    this.#shown = shown;
    this.#drawText(message);
    this.#drawSources(message);
    this.#drawState(message, canRetry);
    this.#drawTime(message);
  }

  #drawText(message) {
    const plain = message.role === 'user' || message.html === null || !this.#drawHtml(message.html);
    if (plain) this.#drawHtml('');
    this.#drawTail(plain ? message.text : message.tail, message.live);
    this.#bubble.hidden = !message.text && !message.html;
  }

  // Code that is still being written looks like code already.
  #drawTail(tail, live) {
    const fence = live ? /^(```|~~~)[^\n]*\n/.exec(tail) : null;
    const text = fence ? tail.slice(fence[0].length) : tail;
    this.#tailBox.classList.toggle('fenced', fence !== null);
    this.#tailBox.hidden = !tail;
    if (this.#tail.data !== text) this.#tail.data = text;
  }

  // Blocks that did not change stay, so that a selection in them survives the stream.
  #drawHtml(html) {
    const fragment = html === '' ? document.createDocumentFragment() : parseSanitised(html);
    if (!fragment) return false;
    const nodes = [...fragment.childNodes].filter((node) => sourceOf(node).trim());
    const blocks = nodes.map(sourceOf);
    let same = 0;
    while (same < blocks.length && blocks[same] === this.#blocks[same]) same += 1;
    for (const node of [...this.#rendered.childNodes].slice(same)) node.remove();
    const fresh = document.createDocumentFragment();
    fresh.append(...nodes.slice(same));
    this.#decorate(fresh);
    this.#rendered.append(fresh);
    this.#blocks = blocks;
    return true;
  }

  #drawSources({ sources, live }) {
    this.#sources.hidden = live || !sources.length;
    this.#sources.setAttribute('aria-label', this.#options.t('sources'));
    this.#sources.replaceChildren(...sources.map(({ id, title, url }) => {
      const name = url && /^https?:/i.test(url)
        ? h('a', { href: url, target: '_blank', rel: 'nofollow noopener noreferrer', dir: 'auto' }, title)
        : h('span', { dir: 'auto' }, title);
      return h('li', {}, h('span', { class: 'number' }, `[${id}]`), ' ', name);
    }));
  }

  #decorate(fragment) {
    for (const link of fragment.querySelectorAll('a')) {
      if (!link.hasAttribute('href')) continue;
      link.target = '_blank';
      link.rel = 'nofollow noopener noreferrer';
    }
    for (const pre of fragment.querySelectorAll('pre')) this.#decorateCode(pre);
    for (const table of fragment.querySelectorAll('table')) wrap(table, h('div', { class: 'scroll', tabindex: '0' }));
  }

  #decorateCode(pre) {
    const { t } = this.#options;
    const code = pre.textContent;
    const button = iconButton('copy', t('copyCode'), () => this.#copy(button, code, 'copyCode'));
    pre.tabIndex = 0;
    pre.dir = 'ltr';
    wrap(pre, h('div', { class: 'code', role: 'group', 'aria-label': t('code') })).append(button);
  }

  #drawState(message, canRetry) {
    const { element } = this;
    element.toggleAttribute('data-live', message.live);
    element.toggleAttribute('data-pending', message.pending);
    element.toggleAttribute('data-last', canRetry);
    element.dataset.state = message.state ?? '';
    if (message.role === 'assistant') element.setAttribute('aria-busy', String(message.live));
    this.copy.hidden = message.live || !message.text;
    this.actions.hidden = message.live || message.pending;
    this.#note.replaceChildren(...this.#noteParts(message, canRetry));
    this.#note.hidden = !this.#note.firstChild;
  }

  #noteParts(message, canRetry) {
    const { t, onRetry } = this.#options;
    if (message.role === 'user') return [];
    if (message.state === 'stopped') return [icon('stop'), h('span', {}, t('stopped'))];
    if (message.state === 'refused') return [icon('alert'), h('span', {}, t('refused'))];
    if (message.state !== 'failed') return [];
    const told = [icon('alert'), h('span', {}, message.problem || t('failed'))];
    if (!canRetry) return told;
    return [...told, h('button', { type: 'button', class: 'link', onclick: () => onRetry() }, t('tryAgain'))];
  }

  #drawTime({ createdAt }) {
    const date = new Date(createdAt);
    const sameDay = date.toDateString() === new Date().toDateString();
    /** @type {Intl.DateTimeFormatOptions} */
    const clock = { hour: '2-digit', minute: '2-digit' };
    /** @type {Intl.DateTimeFormatOptions} */
    const style = sameDay ? clock : { month: 'short', day: 'numeric', ...clock };
    this.#time.dateTime = date.toISOString();
    this.#time.textContent = new Intl.DateTimeFormat(this.#options.lang, style).format(date);
  }

  /** @param {HTMLElement} button @param {string} text @param {'copy'|'copyCode'} label */
  async #copy(button, text, label) {
    const { t, onCopied } = this.#options;
    await copyText(text);
    onCopied();
    button.replaceChildren(icon('done'));
    setLabel(button, t('copied'));
    setTimeout(() => {
      button.replaceChildren(icon('copy'));
      setLabel(button, t(label));
    }, COPIED_MS);
  }
}

/** What a node was parsed from; nothing for a comment. @param {Node} node */
function sourceOf(node) {
  if (node instanceof Element) return node.outerHTML;
  return node instanceof Text ? node.data : '';
}

/**
 * @template {HTMLElement} B
 * @param {Element} node
 * @param {B} box
 */
function wrap(node, box) {
  node.replaceWith(box);
  box.append(node);
  return box;
}
