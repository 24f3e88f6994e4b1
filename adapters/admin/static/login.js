/** Logging in, and one's own password. */

import { h, logo } from '/static/dom.js';
import { get, post } from './api.js';
import { t } from './strings.js';
import { ask, errorText, field } from './ui.js';

export function loginView({ title, message, firstCommand, onLogin, again }) {
  const name = h('input', { type: 'text', name: 'username', autocomplete: 'username', autocapitalize: 'off',
    spellcheck: 'false', required: true });
  const password = h('input', { type: 'password', name: 'password', autocomplete: 'current-password', required: true });
  const problem = h('p', { class: 'problem', role: 'alert' }, message);
  const go = h('button', { type: 'submit', class: 'button primary' }, t('logIn'));
  const form = h('form', { novalidate: true }, field(t('name'), name), field(t('password'), password), problem, go);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const missing = [name, password].find((input) => !input.value);
    if (missing) {
      problem.textContent = t('fillBoth');
      missing.focus();
      return;
    }
    go.disabled = true;
    try {
      const found = await post('login', { name: name.value, password: password.value });
      onLogin(found.account);
    } catch (error) {
      problem.textContent = errorText(error);
      go.disabled = false;
      password.select();
    }
  });
  const head = h('div', { class: 'login-head' }, logo(), h('h1', {}, title));
  return h('main', { class: 'login' }, head, ...(firstCommand ? [firstSteps(firstCommand, again)] : [form]));
}

/** Nobody can log in yet: this says how that is changed, and goes on once it was. */
function firstSteps(command, again) {
  const timer = setInterval(async () => {
    if (!box.isConnected) clearInterval(timer);
    else if (!document.hidden && !(await get('session').catch(() => ({ firstCommand: command }))).firstCommand) again();
  }, 2000);
  const box = h('div', { class: 'first' }, h('p', {}, t('noAccountYet')), h('pre', {}, h('code', {}, command)),
    h('p', {}, t('thenLogIn')));
  return box;
}

/**
 * @param {(action: () => Promise<unknown>) => Promise<unknown>} alone runs what ends this login and begins another,
 *   with no other request beside it
 */
export async function passwordDialog(alone) {
  const old = h('input', { type: 'password', autocomplete: 'current-password' });
  const fresh = h('input', { type: 'password', autocomplete: 'new-password' });
  await ask({
    title: t('changePassword'),
    lines: [t('passwordEndsLogins')],
    action: t('changePassword'),
    fields: [
      { name: 'old', label: t('oldPassword'), input: old, needed: true },
      { name: 'password', label: t('newPassword'), input: fresh, needed: true, hint: t('passwordHint') },
    ],
    success: t('passwordChanged'),
    // As they were typed: `ask` takes spaces away.
    act: () => alone(() => post('password', { old: old.value, new: fresh.value })),
  });
}
