/** Who may log in, what they may do, and who they are on channels. */

import { h } from '/static/dom.js';
import { get, post } from './api.js';
import { t, word } from './strings.js';
import { ask, attempt, badge, button, field, live, select, table, when } from './ui.js';

export function accountsPage({ account }) {
  const list = h('div');
  const refresh = live(list, () => get('accounts'), (found) => draw(found, account, refresh));
  return { node: h('div', {}, createForm(account.roles, refresh), list), refresh };
}

/** @param {string[]} roles */
function roleOptions(roles) {
  return roles.map((role) => [role, word('role', role)]);
}

function createForm(roles, refresh) {
  const name = h('input', { type: 'text', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' });
  const role = select(roleOptions(roles), 'viewer');
  const form = h('form', { class: 'card inline', novalidate: true }, h('h2', {}, t('newAccount')),
    field(t('name'), name), field(t('role'), role),
    h('button', { type: 'submit', class: 'button primary' }, t('create')));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const done = await attempt(async () => {
      const made = await post('accounts', { name: name.value, role: role.value });
      name.value = '';
      showPassword(made.name, made.password);
    });
    if (done) refresh();
  });
  return form;
}

function showPassword(name, password) {
  const code = h('code', {}, password);
  return ask({
    title: t('passwordOf', { name }),
    lines: [t('shownOnce'), h('pre', {}, code)],
    action: t('done'),
  });
}

function draw({ accounts, identities }, self, refresh) {
  const columns = [
    { name: t('name'), cell: (one) => h('strong', {}, one.name) },
    { name: t('role'), cell: (one) => roleSelect(one, self.roles, refresh) },
    { name: t('onChannels'), cell: (one) => channels(one, identities, refresh) },
    { name: t('state'), cell: (one) => (one.disabledAt ? badge(t('disabled'), 'bad') : badge(t('active'), 'good')) },
    { name: t('since'), cell: (one) => when(one.createdAt) },
    { name: '', cell: (one) => actions(one, self, refresh), kind: 'end' },
  ];
  return table(word('page', 'accounts'), columns, accounts);
}

function roleSelect(one, roles, refresh) {
  const input = select(roleOptions(roles), one.role,
    { 'aria-label': t('roleOf', { name: one.name }), 'data-key': `role-${one.name}` });
  input.addEventListener('change', async () => {
    const role = input.value;
    await ask({
      title: t('roleOf', { name: one.name }),
      lines: [t('roleChange', { name: one.name, from: word('role', one.role), to: word('role', role) }),
        word('may', role)],
      action: t('changeRole'),
      success: t('saved'),
      act: () => post(`accounts/${encodeURIComponent(one.name)}/role`, { role }),
    });
    refresh(true);
  });
  return input;
}

function channels(one, identities, refresh) {
  const own = identities.filter(({ account }) => account === one.name);
  const linked = own.map(({ channel, externalId }) => {
    const identity = `${channel}:${externalId}`;
    const remove = h('button', {
      type: 'button', class: 'link', 'aria-label': t('unlinkIdentity', { identity }), 'data-key': `unlink-${identity}`,
      onclick: () => unlink(one, identity, refresh),
    }, '×');
    return h('li', {}, h('code', {}, identity), ' ', remove);
  });
  const add = h('button', { type: 'button', class: 'link', 'data-key': `link-${one.name}`,
    onclick: () => addIdentity(one, refresh) }, t('linkIdentity'));
  return h('ul', { class: 'plain' }, ...linked, h('li', {}, add));
}

async function addIdentity(one, refresh) {
  const input = h('input', { type: 'text', placeholder: 'slack:T0123/U0456', autocomplete: 'off',
    spellcheck: 'false' });
  const done = await ask({
    title: t('linkTitle', { name: one.name }),
    lines: [t('linkMeans', { name: one.name })],
    action: t('linkIdentity'),
    fields: [{ name: 'identity', label: t('identity'), input, needed: true, hint: t('identityHint') }],
    success: t('saved'),
    act: (answer) => post(`accounts/${encodeURIComponent(one.name)}/identities`, answer),
  });
  if (done) refresh();
}

async function unlink(one, identity, refresh) {
  const done = await ask({
    title: t('unlinkIdentity', { identity }), lines: [t('unlinkMeans', { name: one.name })], action: t('unlink'),
    danger: true,
    success: t('saved'), act: () => post('identities/unlink', { identity }),
  });
  if (done) refresh();
}

function actions(one, self, refresh) {
  const path = `accounts/${encodeURIComponent(one.name)}`;
  const reset = button(t('newPassword'), async () => {
    const made = await ask({
      title: t('passwordOf', { name: one.name }), lines: [t('resetMeans', { name: one.name })],
      action: t('newPassword'),
      act: () => post(`${path}/password`),
    });
    if (made) await showPassword(one.name, made.password);
  }, 'small');
  const disabled = Boolean(one.disabledAt);
  const toggle = button(disabled ? t('enable') : t('disable'), async () => {
    const done = await ask({
      title: disabled ? t('enableTitle', { name: one.name }) : t('disableTitle', { name: one.name }),
      lines: [disabled ? t('enableMeans') : t('disableMeans')],
      action: disabled ? t('enable') : t('disable'),
      danger: !disabled,
      success: t('saved'),
      act: () => post(`${path}/disabled`, { disabled: !disabled }),
    });
    if (done) refresh();
  }, disabled ? 'small' : 'small danger-line');
  reset.dataset.key = `reset-${one.name}`;
  toggle.dataset.key = `toggle-${one.name}`;
  return h('div', { class: 'actions' }, ...(one.name === self.name ? [] : [reset]), toggle);
}
