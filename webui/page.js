// The first script of every page of ours: language, colours, and who we are where cookies are refused.
// Gradio has no switch for any of them, but it asks the browser (navigator.language, matchMedia, fetch), and so the
// answers are given here. Nothing in it is secret: the ticket of a frame without cookies is sealed by the server.
(() => {
  "use strict";
  const html = document.documentElement;
  const root = new URL(html.dataset.root || ".", document.baseURI);

  const kept = {
    get(name) { try { return localStorage.getItem("webui." + name) || ""; } catch { return ""; } },
    set(name, value) {
      try { value ? localStorage.setItem("webui." + name, value) : localStorage.removeItem("webui." + name); } catch { /* refused */ }
    },
  };

  // --- language: what the server chose, unless this browser keeps another choice that the server could not see
  const LANG = { en: "en", zh: "zh-CN" };
  if (LANG[kept.get("language")]) html.lang = LANG[kept.get("language")];
  const language = html.lang.startsWith("zh") ? "zh" : "en";
  Object.defineProperty(navigator, "language", { get: () => LANG[language] });
  Object.defineProperty(navigator, "languages", { get: () => [LANG[language]] });

  function switchLanguage(to) {
    kept.set("language", to);
    const where = location.protocol === "https:" ? "SameSite=None; Secure; Partitioned" : "SameSite=Lax";
    document.cookie = `webui_language=${to}; Path=${root.pathname.replace(/(.)\/$/, "$1")}; Max-Age=31536000; ${where}`;
    const url = new URL(location.href);
    url.searchParams.set("lang", to); // where the cookie is refused
    location.replace(url);
  }

  // --- colours: the system's, until somebody chooses
  const DARK = "(prefers-color-scheme: dark)";
  const media = window.matchMedia.bind(window);
  const isDark = () => (kept.get("theme") || (media(DARK).matches ? "dark" : "light")) === "dark";
  window.matchMedia = (query) => {
    const list = media(query);
    if (query === DARK) Object.defineProperty(list, "matches", { get: isDark });
    return list;
  };

  function showTheme() {
    html.dataset.theme = isDark() ? "dark" : "light";
    html.style.colorScheme = html.dataset.theme;
    document.body?.classList.toggle("dark", isDark());
  }
  showTheme();
  media(DARK).addEventListener("change", showTheme);

  // --- who we are: the ticket in our own storage, where the browser refuses the cookie
  const inFrame = window.top !== window.self;
  const ask = window.fetch.bind(window);
  let token = "";

  async function identify() {
    try {
      const headers = kept.get("token") ? { "x-webui-token": kept.get("token") } : {};
      const answer = await (await ask(new URL("identity", root), { method: "POST", headers })).json();
      token = answer.has_cookie ? "" : answer.token || "";
      kept.set("token", token);
    } catch { /* the server is away: what follows will say so */ }
  }
  const known = inFrame || !navigator.cookieEnabled ? identify() : null;

  window.fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input, document.baseURI);
    if (url.origin !== location.origin) return ask(input, init);
    if (known) await known;
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined));
    headers.set("x-webui-language", language);
    if (token) headers.set("x-webui-token", token);
    const answer = await ask(input, { ...init, headers });
    if (answer.status === 401) location.reload(); // the login has ended: that leads to the form
    return answer;
  };

  // --- the buttons for it, wherever they are
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-webui]");
    if (button?.dataset.webui === "language") switchLanguage(button.value);
    if (button?.dataset.webui === "theme") { kept.set("theme", isDark() ? "light" : "dark"); showTheme(); }
  });

  // --- who logs out leaves nothing behind for the next person at this browser
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-webui-leaves]")) return;
    const stays = new Set(["webui.language", "webui.theme"]);
    try {
      for (const name of Object.keys(localStorage)) if (!stays.has(name)) localStorage.removeItem(name);
      sessionStorage.clear();
    } catch { /* refused: then there is nothing */ }
  });

  document.addEventListener("DOMContentLoaded", showTheme);
  if (inFrame) html.dataset.framed = "true";
})();
