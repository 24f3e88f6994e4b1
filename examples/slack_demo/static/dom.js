/** Small DOM helpers of the demo, on top of those that it shares with Myna's own pages. */

import { find, h, ICON_SHAPE, svg } from '/web/element.js';

export { find, h };

const THUMB = 'M7 10.5v9H4v-9zM7 10.5l4-7c1.7 0 2.6 1.2 2.3 2.8l-.6 3.2h5a2 2 0 0 1 2 2.4l-1.2 5.9a2 2 0 0 1-2 1.7H7';
const ICONS = {
  up: [THUMB],
  down: [THUMB],
  reply: ['M4 5.5h16v11h-9l-4 3.5v-3.5H4z'],
  edit: ['M4.5 19.5l.9-4L15.8 5.1a1.8 1.8 0 0 1 2.5 0l.6.6a1.8 1.8 0 0 1 0 2.5L8.5 18.6z'],
  trash: ['M5 7h14', 'M9.5 7V4.5h5V7', 'M7 7l.8 12.5h8.4L17 7', 'M10.3 10.5v5.5', 'M13.7 10.5v5.5'],
  close: ['M6 6l12 12', 'M18 6L6 18'],
  back: ['M14.5 5.5L8 12l6.5 6.5'],
  send: ['M4.5 12h14', 'M12.5 6l6 6-6 6'],
  file: ['M17.5 11.5l-6 6a3.6 3.6 0 0 1-5-5l7-7a2.4 2.4 0 0 1 3.4 3.4l-6.7 6.7a1.2 1.2 0 0 1-1.7-1.7l5.8-5.8'],
  list: ['M4 7h16', 'M4 12h16', 'M4 17h10'],
  stop: ['M8 8h8v8H8z'],
};

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  return svg('svg', { class: `icon icon-${name}`, ...ICON_SHAPE }, ...ICONS[name].map((d) => svg('path', { d })));
}

/** @param {string} name @returns {name is keyof typeof ICONS} */
function isIcon(name) {
  return Object.hasOwn(ICONS, name);
}

/**
 * A button whose label is its name and its tooltip, with an icon or a short text on it.
 * @param {string} face
 * @param {string} label
 * @param {(event: MouseEvent) => unknown} onclick
 */
export function tool(face, label, onclick, className = 'tool') {
  const button = h('button', { type: 'button', class: className, 'aria-label': label, title: label, onclick });
  button.append(isIcon(face) ? icon(face) : face);
  return button;
}

/** What an element was made for. @type {WeakMap<Element, {key: string, signature: string}>} */
const shownAs = new WeakMap();

/**
 * Lets a container show these items, and keeps the elements of those that are as they were, focus included.
 * @param {Element} container
 * @param {{key: string, signature: string, make: () => HTMLElement}[]} items
 */
export function show(container, items) {
  const old = new Map([...container.children].map((node) => [shownAs.get(node)?.key, node]));
  const nodes = items.map(({ key, signature, make }) => {
    const known = old.get(key);
    if (known && shownAs.get(known)?.signature === signature) return known;
    const node = make();
    node.dataset.key = key;
    shownAs.set(node, { key, signature });
    return node;
  });
  /** @type {Set<Element>} */
  const kept = new Set(nodes);
  for (const node of [...container.children]) if (!kept.has(node)) node.remove();
  nodes.forEach((node, place) => {
    if (container.children[place] !== node) container.insertBefore(node, container.children[place] ?? null);
  });
}
