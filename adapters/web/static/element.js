/** Making elements, for every page that Myna serves. No HTML is parsed here: a string becomes a text node. */

const SVG = 'http://www.w3.org/2000/svg';

/** @typedef {string|number|boolean|null|undefined} Attribute */
/**
 * Attributes by their name, and listeners as `onclick`.
 * @typedef {{[name: string]: Attribute | ((event: any) => unknown)}} Properties
 */
/**
 * The event of each listener: its `currentTarget` is the element that is made.
 * @template {Element} E
 * @typedef {{[K in keyof Events as `on${K}`]?: (event: Events[K] & {currentTarget: E}) => unknown}} Listeners
 */
/** @typedef {HTMLElementEventMap} Events */

/**
 * Make an element. Functions become listeners, `true` an empty attribute; null, undefined and false are left out.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties & Listeners<HTMLElementTagNameMap[T]>} [properties]
 * @param {...(Node|string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === 'function') node.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else node.setAttribute(name, value === true ? '' : String(value));
  }
  node.append(...children);
  return node;
}

/**
 * Make an element of a drawing.
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, string>} attributes
 * @param {...Node} children
 * @returns {SVGElementTagNameMap[T]}
 */
export function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Attributes of an icon: a drawing in the text's size that says nothing of its own. */
export const ICON_SHAPE = { viewBox: '0 0 24 24', 'aria-hidden': 'true', focusable: 'false' };

/**
 * Find the first element for a selector, of this kind; throw where there is none.
 * @template {Element} E
 * @param {ParentNode} within
 * @param {string} selector
 * @param {new (...values: any[]) => E} kind
 */
export function find(within, selector, kind) {
  const found = within.querySelector(selector);
  if (!(found instanceof kind)) throw new Error(`there is no ${kind.name} ${selector}`);
  return found;
}
