// The first script of every page of ours: language, colours, and who we are where cookies are refused.
// Gradio has no switch for any of them, but it asks the browser (navigator.language, matchMedia, fetch), and so the
// answers are given here. Nothing in it is secret: the ticket of a frame without cookies is sealed by the server.
(() => {
  "use strict";
  const html = document.documentElement;
  const root = new URL(html.dataset.root || ".", document.baseURI);

  // --- storage: where the browser refuses it to a frame, Gradio's page would not even appear; a page's own has to do
  class PageStorage {
    getItem(name) { return Object.hasOwn(this, name) ? this[name] : null; }
    setItem(name, value) { this[name] = String(value); }
    removeItem(name) { delete this[name]; }
    clear() { for (const name of Object.keys(this)) delete this[name]; }
    key(index) { return Object.keys(this)[index] ?? null; }
    get length() { return Object.keys(this).length; }
  }
  let keepsNothing = false;
  for (const name of ["localStorage", "sessionStorage"]) {
    try { window[name].getItem("webui"); } catch {
      Object.defineProperty(window, name, { value: new PageStorage() });
      keepsNothing = true;
    }
  }

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
  let token = kept.get("token"); // counts until the server has said otherwise, and where it says nothing
  let isKnown = !inFrame && navigator.cookieEnabled;
  let asking = null;

  async function identify() {
    try {
      const headers = token ? { "x-webui-token": token } : {};
      const answer = await (await ask(new URL("identity", root), { method: "POST", headers })).json();
      token = answer.has_cookie ? "" : answer.token || "";
      kept.set("token", token);
      html.toggleAttribute("data-forgets", keepsNothing && Boolean(token));
      isKnown = true;
    } catch { /* the server is away: the next call asks again */ }
    asking = null;
  }
  if (!isKnown) asking = identify();

  window.fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input, document.baseURI);
    if (url.origin !== location.origin) return ask(input, init);
    if (!isKnown) await (asking ??= identify());
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

  // --- links in messages open a tab of their own, those in diagrams too, and lead to nothing but the web
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#chat a");
    const href = link?.getAttribute("href") ?? link?.getAttribute("xlink:href") ?? "#";
    if (href.startsWith("#") || link.hasAttribute("download")) return;
    event.preventDefault();
    let url;
    try { url = new URL(href, document.baseURI); } catch { return; }
    if (["http:", "https:", "mailto:"].includes(url.protocol)) window.open(url, "_blank", "noopener,noreferrer");
  }, true);

  // --- where something folds, Gradio puts a nameless button into another: only the outer one is for people
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const node of addedNodes) {
      if (node.nodeType !== Node.ELEMENT_NODE) continue;
      for (const arrow of (node.closest(".thought-group") ?? node).querySelectorAll(".thought-group .arrow")) arrow.inert = true;
    }
  }).observe(html, { subtree: true, childList: true });

  // --- who logs out leaves nothing behind for the next person at this browser
  document.addEventListener("submit", (event) => {
    if (!event.target.matches("[data-webui-leaves]")) return;
    const stays = new Set(["webui.language", "webui.theme"]);
    try {
      for (const name of Object.keys(localStorage)) if (!stays.has(name)) localStorage.removeItem(name);
      sessionStorage.clear();
    } catch { /* refused: then there is nothing */ }
  });

  // --- what Gradio says in English only, to those who hear the page or point at something
  const IN_CHINESE = {
    "Toggle Sidebar": "打开或收起侧栏", "chatbot conversation": "聊天", "Copy message": "复制消息", "Copied message": "已复制消息",
    "Copy conversation": "复制对话", "Copied conversation": "已复制对话", "Copy code": "复制代码", "Code copied": "代码已复制",
    "Copy": "复制", "copy": "复制", "Copied": "已复制", "Copied!": "已复制", "Edit": "编辑", "Like": "赞", "like": "赞", "Dislike": "踩", "dislike": "踩",
    "Liked": "已赞", "Disliked": "已踩", "Feedback": "评价", "Loading response": "正在生成回答", "Undo": "撤销", "Retry": "重试", "Submit": "提交", "Cancel": "取消", "Clear": "清空",
    "Stop": "停止", "Close": "关闭", "Close popup": "关闭", "Fullscreen": "全屏", "View in full screen": "全屏", "Exit full screen": "退出全屏",
    "Scroll to bottom": "滚动到底部", "Scroll down": "向下滚动", "Reset to default value": "恢复默认值", "Resize sidebar": "调整侧栏宽度",
    "Connection to the server was lost. Attempting reconnection...": "与服务器的连接已断开，正在重新连接…",
    "Dismiss": "关闭", "Error": "错误", "Warning": "警告", "Info": "提示", "Expand": "展开", "Collapse": "收起",
  };
  const BEGINS = [
    [/^user's message: /, "您的消息："], [/^bot's message: /, "回答："], [/^range slider for /, "滑块："], [/^number input for /, "数值："],
    [/^Close /, "关闭 "],
  ];

  function inChinese(text) {
    if (Object.hasOwn(IN_CHINESE, text)) return IN_CHINESE[text];
    const found = BEGINS.find(([begin]) => begin.test(text));
    return found ? text.replace(found[0], found[1]) : text;
  }

  function translate(element) {
    for (const name of ["aria-label", "title"]) {
      const text = element.getAttribute(name);
      if (text && inChinese(text) !== text) element.setAttribute(name, inChinese(text));
    }
  }

  if (language === "zh") {
    new MutationObserver((changes) => {
      for (const { type, target, addedNodes } of changes) {
        if (type === "attributes") translate(target);
        for (const node of addedNodes) {
          if (node.nodeType !== Node.ELEMENT_NODE) continue;
          translate(node);
          node.querySelectorAll("[aria-label], [title]").forEach(translate);
        }
      }
      for (const e of document.querySelectorAll(".toast-body *")) {
        if (!e.childElementCount && inChinese(e.textContent.trim()) !== e.textContent.trim()) e.textContent = inChinese(e.textContent.trim());
      }
    }).observe(html, { subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label", "title"] });
  }

  document.addEventListener("DOMContentLoaded", showTheme);
  if (inFrame) html.dataset.framed = "true";
})();
