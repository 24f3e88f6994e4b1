/** What answers stand on: where articles come from, the articles themselves, and what is found for a question. */

import { h } from '/static/dom.js';
import { addForms } from './articles_adding.js';
import { nameOf, sourceList } from './articles_sources.js';
import { audiences, tryCard } from './articles_trying.js';
import { get, getNewest, post } from './api.js';
import { t, word } from './strings.js';
import { address, attempt, button, card, debounced, empty, facts, field, link, live, number, select, table,
  when } from './ui.js';

const PAGE = 50;
const MORE = 200;

export function articlesPage(context) {
  const [id] = context.params;
  return id ? onePage(id, context) : listPage(context);
}

function listPage({ may }) {
  const mayChange = may('trainer');
  const forms = mayChange ? addForms(() => refresh(true)) : null;
  const sources = sourceList(mayChange, (found) => {
    forms?.allow(found);
    rest.hidden = !found.sources.length && !found.underWay.length;
  });
  const list = articleList();
  const rest = h('div', { class: 'stack', hidden: true }, tryCard(), list.node);
  /** The list comes last, so that it has what was just read. */
  const refresh = async (force) => {
    await sources.refresh(force);
    await list.refresh(force);
  };
  const head = h('div', { class: 'row' }, h('p', { class: 'muted grow' }, t('articlesMean')));
  if (mayChange) head.append(button(t('syncArticles'), () => sync(refresh)));
  return { node: h('div', {}, head, ...(forms ? [forms.node] : []), sources.node, rest), refresh };
}

async function sync(refresh) {
  if (await attempt(() => post('sources/sync'), t('syncQueued'))) refresh(true);
}

/** Articles by title, as many as asked for, with a filter. */
function articleList() {
  const text = h('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', maxlength: '200' });
  const audience = select([['', t('allAudiences')], ...audiences()], '');
  const found = h('div', { class: 'stack' });
  let most = PAGE;
  const query = () => {
    const wanted = { text: text.value.trim(), audience: audience.value, most: String(most) };
    return `articles?${new URLSearchParams(wanted)}`;
  };
  const foot = h('p', { hidden: true }, button(t('showMore'), () => {
    most += MORE;
    attempt(() => refresh());
  }));
  const refresh = live(found, () => getNewest(query), (value) => {
    foot.hidden = value.articles.length >= Math.min(value.count, value.most);
    return drawList(value, Boolean(text.value.trim() || audience.value));
  });
  const filtered = () => {
    most = PAGE;
    attempt(() => refresh());
  };
  text.addEventListener('input', debounced(filtered));
  audience.addEventListener('change', filtered);
  const filter = h('div', { class: 'inline', role: 'search' }, field(t('findArticles'), text),
    field(t('audience'), audience));
  return { node: card(t('allArticles'), filter, found, foot), refresh };
}

function drawList({ articles, count, most }, isFiltered) {
  const none = isFiltered ? t('noneFits') : t('noneRead');
  const told = h('p', { class: 'muted', role: 'status' }, count ? t('articlesFound', { count: number(count) }) : none);
  if (!count) return told;
  const cut = articles.length === most && count > most
    ? [h('p', { class: 'muted' }, t('firstShown', { shown: number(most) }))] : [];
  return [told, table(t('allArticles'), [
    { name: t('articleTitle'), cell: ({ id, title, name }) => link('articles', title || name, id) },
    { name: t('name'), cell: ({ name }) => h('span', { class: 'break' }, name) },
    { name: t('audience'), cell: ({ audience }) => word('audience', audience) },
    { name: t('language'), cell: ({ language }) => language ?? '' },
    { name: t('textSince'), cell: ({ addedAt }) => when(addedAt) },
  ], articles), ...cut];
}

function onePage(id, { setHeading }) {
  const found = h('div');
  let most = PAGE;
  const foot = h('p', { hidden: true }, button(t('showMore'), () => {
    most += MORE;
    attempt(() => refresh());
  }));
  const refresh = live(found, () => get(`articles/${encodeURIComponent(id)}?most=${most}`), (value) => {
    setHeading(value.article.title || value.article.name);
    foot.hidden = value.passages.length >= Math.min(value.count, value.most);
    return drawOne(value);
  });
  return { node: h('div', {}, h('p', {}, link('articles', t('allArticles'))), found, foot), refresh };
}

function drawOne({ article, source, passages, count }) {
  return [
    card(t('details'), facts([
      [t('name'), article.name], [t('audience'), word('audience', article.audience)], [t('language'), article.language],
      [t('textSince'), when(article.addedAt)], [t('lastRead'), when(source?.readAt)], [t('addedBy'), source?.addedBy],
    ]), facts([
      [t('location'), nameOf(article.location)],
      [t('source'), source && source.location !== article.location && source.location !== article.url
        ? address(source.location) : null],
      [t('address'), article.url ? address(article.url) : null],
    ])),
    passages.length ? card(t('passages', { count: number(count) }), ...passages.map(passage)) : empty(t('none')),
  ];
}

function passage({ headings, text }) {
  const way = headings.length ? [h('h3', { class: 'break' }, headings.join(' › '))] : [];
  return h('section', { class: 'passage' }, ...way, h('p', {}, text));
}
