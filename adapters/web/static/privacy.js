import { h, iconButton } from './dom.js';

/**
 * @typedef {object} Privacy  what the server knows, as GET /api/privacy tells it
 * @property {'opt-out'|'opt-in'} policy
 * @property {boolean|null} allChats
 * @property {boolean|null} thisChat
 * @property {boolean} mayLearn
 */

/**
 * @typedef {object} Source
 * @property {() => Promise<Privacy>} privacy
 * @property {(scope: 'chat'|'all', mayLearn: boolean) => Promise<Privacy>} setPrivacy
 */

/** A button and the small menu it opens: whether Myna may learn from this chat, and from all of them. */
export class PrivacyMenu {
  #t;
  #source;
  #chat;
  #all;
  #problem;
  /** As the server told it last. @type {Privacy|null} */
  #known = null;
  #changes = Promise.resolve();
  #waiting = 0;
  #hasFailed = false;

  /** @param {import('./strings.js').Translate} t @param {Source} source */
  constructor(t, source) {
    this.#t = t;
    this.#source = source;
    this.button = iconButton('shield', t('privacy'), () => this.#toggle());
    this.button.setAttribute('aria-expanded', 'false');
    this.#chat = this.#switch('learnThisChat', 'chat');
    this.#all = this.#switch('learnAllChats', 'all');
    this.#problem = h('p', { class: 'problem', role: 'status' });
    this.menu = h('div', { class: 'menu', role: 'group', 'aria-label': t('privacy') },
      this.#all.row, this.#chat.row, h('p', {}, t('privacyNote')), this.#problem);
    this.menu.hidden = true;
    this.element = h('div', {
      class: 'privacy',
      onkeydown: (event) => this.#onKey(event),
      onfocusout: (event) => this.#onLeave(event),
    }, this.button, this.menu);
  }

  /** @param {'learnThisChat'|'learnAllChats'} words @param {'chat'|'all'} scope */
  #switch(words, scope) {
    const input = h('input', { type: 'checkbox', role: 'switch', onchange: () => this.#change(input, scope) });
    return { input, row: h('label', {}, h('span', {}, this.#t(words)), input) };
  }

  #toggle() {
    if (this.menu.hidden) this.#open();
    else this.close();
  }

  async #open() {
    this.menu.hidden = false;
    this.button.setAttribute('aria-expanded', 'true');
    document.addEventListener('pointerdown', this.#outside);
    this.#problem.textContent = '';
    for (const { input } of [this.#chat, this.#all]) input.disabled = true;
    await this.#changes;
    try {
      const found = await this.#source.privacy();
      if (!this.#waiting) this.#draw(found);
    } catch {
      this.#problem.textContent = this.#t('privacyFailed');
    }
  }

  close() {
    if (this.menu.hidden) return;
    this.menu.hidden = true;
    this.button.setAttribute('aria-expanded', 'false');
    document.removeEventListener('pointerdown', this.#outside);
  }

  /** @param {Privacy} found */
  #draw(found) {
    const { policy, allChats, mayLearn } = found;
    this.#known = found;
    this.#all.input.disabled = false;
    this.#all.input.checked = allChats ?? policy === 'opt-out';
    // A no for all chats holds for this one, too.
    this.#chat.input.disabled = allChats === false;
    this.#chat.input.checked = mayLearn;
  }

  // Until the last choice is stored, the switches stand as they were put.
  #change(input, scope) {
    if (!this.#waiting) this.#hasFailed = false;
    this.#waiting += 1;
    this.#problem.textContent = '';
    this.#changes = this.#settle(this.#source.setPrivacy(scope, input.checked));
  }

  async #settle(stored) {
    try {
      this.#known = await stored;
    } catch {
      this.#hasFailed = true;
    }
    this.#waiting -= 1;
    if (this.#waiting) return;
    if (this.#known) this.#draw(this.#known);
    this.#problem.textContent = this.#t(this.#hasFailed ? 'privacyFailed' : 'privacySaved');
  }

  #outside = (event) => {
    if (!event.composedPath().includes(this.element)) this.close();
  };

  #onLeave({ relatedTarget }) {
    if (relatedTarget && !this.element.contains(relatedTarget)) this.close();
  }

  #onKey(event) {
    if (event.key !== 'Escape' || this.menu.hidden) return;
    event.preventDefault();
    event.stopPropagation();
    this.close();
    this.button.focus();
  }
}
