/**
 * Puts Myna on any page:
 *   <script async src="https://HOST/widget.js"
 *     data-lang="" data-title="" data-color="" data-position="left|right"></script>
 * When `myna:ready` fires on the window, `window.Myna` has open, close, toggle, reset and on.
 */
(() => {
  'use strict';
  const script = document.currentScript;
  const host = /** @type {Window & {Myna?: object}} */ (window);
  if (!(script instanceof HTMLScriptElement) || host.Myna) return;
  const { origin } = new URL(script.src);
  const { lang, title, color, position } = script.dataset;

  /** @param {{Launcher: typeof import('./launcher.js').Launcher}} module */
  function install({ Launcher }) {
    if (host.Myna) return;
    const launcher = new Launcher({ origin, lang, title, color, position });
    host.Myna = Object.freeze({
      open: () => launcher.open(),
      close: () => launcher.close(),
      toggle: () => launcher.toggle(),
      reset: () => launcher.reset(),
      on: (event, fn) => launcher.on(event, fn),
    });
    document.body.append(launcher.element);
    window.dispatchEvent(new CustomEvent('myna:ready', { detail: host.Myna }));
  }

  function start() {
    import(`${origin}/static/launcher.js`).then(install)
      .catch((error) => console.error('Myna could not start.', error));
  }

  if (document.body) start();
  else document.addEventListener('DOMContentLoaded', start, { once: true });
})();
