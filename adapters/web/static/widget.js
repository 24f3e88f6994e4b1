/**
 * Puts Myna on any page:
 *   <script async src="https://HOST/widget.js" data-lang="" data-title="" data-color="" data-position="left|right"></script>
 * When `myna:ready` fires on the window, `window.Myna` has open, close, toggle, reset and on.
 */
(() => {
  'use strict';
  const script = document.currentScript;
  if (!script || window.Myna) return;
  const { origin } = new URL(script.src);
  const { lang, title, color, position } = script.dataset;

  function install({ Launcher }) {
    if (window.Myna) return;
    const launcher = new Launcher({ origin, lang, title, color, position });
    window.Myna = Object.freeze({
      open: () => launcher.open(),
      close: () => launcher.close(),
      toggle: () => launcher.toggle(),
      reset: () => launcher.reset(),
      on: (event, fn) => launcher.on(event, fn),
    });
    document.body.append(launcher.element);
    window.dispatchEvent(new CustomEvent('myna:ready', { detail: window.Myna }));
  }

  function start() {
    import(`${origin}/static/launcher.js`).then(install).catch((error) => console.error('Myna could not start.', error));
  }

  if (document.body) start();
  else document.addEventListener('DOMContentLoaded', start, { once: true });
})();
