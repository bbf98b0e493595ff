/* The list of conversations in the sidebar.
 *
 * Python tells it through the attributes of one element (`render.list_state_html`): which conversation is open, a token
 * that changes when the list may have changed, the language and its words. The list itself is asked for here
 * (`sidebar_routes.py`) and drawn here, with text nodes only: a title is never HTML. What a person opens goes back
 * through the hidden text box `#chosen`. Days are those of the browser's time zone.
 */
(() => {
  "use strict";

  const BASE = new URL("conversations", document.currentScript.src).href;
  const PAGE = 100, NEWEST = 20, UNDO_MS = 10_000, RETRY_MS = 5_000, SEARCH_PAUSE_MS = 250;
  const NOTHING = { entries: new Map(), more: false };

  let told = { open: "", token: "", language: document.documentElement.lang.slice(0, 2), words: {} };
  let list = { ...NOTHING, entries: new Map() };
  let found = null; // { q, entries, more } while something is looked for
  let isLoaded = false, problem = "", menuOf = "", renaming = "", choices = 0, retryTimer = 0;
  const deleted = new Map(); // id -> { entry, timer }: hidden, and can be had back
  let nav = null;

  // --- days

  /** The group of a moment: a word, or { year, month }. Pure; `now` and `at` are Dates. */
  function groupOf(at, now) {
    const day = (back) => new Date(now.getFullYear(), now.getMonth(), now.getDate() - back);
    if (at >= day(0)) return "today";
    if (at >= day(1)) return "yesterday";
    if (at >= day(7)) return "week";
    return { year: at.getFullYear(), month: at.getMonth() };
  }

  const months = new Map(); // making a date format takes longer than drawing an entry

  function groupTitle(group, now) {
    if (typeof group === "string") return told.words["list_" + group];
    const isThisYear = group.year === now.getFullYear(), key = [told.language, isThisYear, group.year, group.month].join();
    if (!months.has(key)) {
      const form = isThisYear ? { month: "long" } : { month: "long", year: "numeric" };
      const locale = told.language === "zh" ? "zh-CN" : told.language;
      months.set(key, new Intl.DateTimeFormat(locale, form).format(new Date(group.year, group.month)));
    }
    return months.get(key);
  }

  // --- asking

  async function ask(path, { query = {}, body } = {}) {
    const url = new URL(BASE + path);
    for (const [name, value] of Object.entries({ lang: told.language, ...query })) url.searchParams.set(name, value);
    const how = body === undefined ? {} : { method: "POST", body, headers: { "content-type": "application/json" } };
    const answer = await fetch(url, { credentials: "same-origin", ...how });
    if (answer.ok) return answer;
    let error;
    try { error = (await answer.json()).error; } catch { /* a proxy's page */ }
    throw Object.assign(new Error(error?.message || told.words.list_failed), { code: error?.code });
  }

  const askJson = async (path, more) => (await ask(path, more)).json();
  const change = (id, what) => askJson("/" + encodeURIComponent(id), { body: JSON.stringify(what) });

  /** Does something and says what went wrong. Returns whether it went well. */
  async function trying(what) {
    try {
      await what();
      problem = "";
    } catch (error) {
      problem = error instanceof TypeError ? told.words.list_failed : error.message; // fetch: no connection
    }
    draw();
    return !problem;
  }

  let refreshes = 0;

  /** The newest entries; those that were in their span and are gone were deleted elsewhere. */
  async function refresh(limit = NEWEST) {
    clearTimeout(retryTimer);
    const mine = ++refreshes;
    const wanted = isLoaded ? limit : PAGE;
    const isWell = await trying(async () => {
      const page = await askJson("", { query: { limit: wanted } });
      if (mine !== refreshes) return; // it may tell of a time before the last change
      const oldest = page.has_more ? page.entries.at(-1)?.at ?? 0 : 0;
      for (const [id, entry] of list.entries) if (entry.pinned || entry.at >= oldest) list.entries.delete(id);
      for (const entry of [...page.entries, ...page.pinned]) list.entries.set(entry.id, entry);
      if (!isLoaded || !page.has_more) list.more = page.has_more;
      isLoaded = true;
    });
    if (!isWell) retryTimer = setTimeout(refresh, RETRY_MS);
  }

  async function more() {
    const target = found || list;
    const last = [...target.entries.values()].filter((entry) => found || !entry.pinned).sort(newestFirst).at(-1);
    const isWell = await trying(async () => {
      const page = await askJson("", { query: { after: last.id, ...(found ? { q: found.q } : {}) } });
      for (const entry of page.entries) target.entries.set(entry.id, entry);
      target.more = page.has_more;
      if (page.entries.length) focusAfterDraw = { id: page.entries[0].id, part: "open" };
    });
    if (!isWell && !found) { isLoaded = false; refresh(); } // the last one may just have been deleted elsewhere
  }

  let searches = 0, searchTimer = 0;
  function search(q) {
    clearTimeout(searchTimer);
    searchTimer = setTimeout(async () => {
      const mine = ++searches;
      if (!q.trim()) { found = null; return draw(); }
      await trying(async () => {
        const page = await askJson("", { query: { q } });
        if (mine !== searches) return;
        found = { q, entries: new Map(page.entries.map((entry) => [entry.id, entry])), more: page.has_more };
      });
    }, SEARCH_PAUSE_MS);
  }

  // --- what can be done with one

  function open(id, how = "") {
    const box = document.querySelector("#chosen textarea, #chosen input");
    if (!box) return;
    box.value = `${id}#${++choices}${how}`; // each choice is a new value, or it would be no change
    box.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function entriesOf(id) {
    return [list.entries.get(id), found?.entries.get(id)].filter(Boolean);
  }

  async function rename(id, title) {
    renaming = "";
    if (!title.trim() || title === entriesOf(id)[0]?.title) return draw();
    await trying(async () => {
      const kept = (await change(id, { title })).title;
      for (const entry of entriesOf(id)) entry.title = kept;
    });
  }

  async function pin(id, pinned) {
    await trying(async () => {
      await change(id, { pinned });
      for (const entry of entriesOf(id)) entry.pinned = pinned;
    });
  }

  async function remove(id) {
    const entry = entriesOf(id)[0];
    const wasOpen = told.open === id;
    deleted.set(id, { entry, timer: setTimeout(() => forget(id), UNDO_MS) });
    focusAfterDraw = { id, part: "undo" };
    if (wasOpen) open("", "stay"); // ends an answer that runs there; on a phone the undo stays in view
    draw();
    const isWell = await trying(() => askJson(`/${encodeURIComponent(id)}/delete`, { body: "{}" }));
    if (!isWell) { comeBack(id); draw(); }
  }

  function comeBack(id) {
    clearTimeout(deleted.get(id)?.timer);
    deleted.delete(id);
  }

  function forget(id) {
    comeBack(id);
    list.entries.delete(id);
    found?.entries.delete(id);
    draw();
  }

  async function undo(id) {
    const isWell = await trying(() => askJson(`/${encodeURIComponent(id)}/undelete`, { body: "{}" }));
    if (!isWell) return forget(id);
    const entry = deleted.get(id)?.entry;
    if (entry) list.entries.set(id, entry); // a refresh may have taken it out of the list
    comeBack(id);
    focusAfterDraw = { id, part: "open" };
    draw();
    refresh();
  }

  async function exportAs(id, format) {
    await trying(async () => {
      const answer = await ask(`/${encodeURIComponent(id)}/export`, { query: { format } });
      const name = /filename\*=UTF-8''([^;]+)/.exec(answer.headers.get("content-disposition") || "");
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = name ? decodeURIComponent(name[1]) : `conversation.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
  }

  async function importFile(file) {
    problem = told.words.list_importing;
    draw();
    await trying(async () => {
      const entry = await askJson("", { query: { name: file.name }, body: file });
      list.entries.set(entry.id, entry);
      open(entry.id);
    });
  }

  // --- drawing

  let focusAfterDraw = null;

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== undefined && value !== null) made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null));
    return made;
  }

  function icon(path) {
    const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
    for (const [name, value] of [["viewBox", "0 0 16 16"], ["aria-hidden", "true"]]) svg.setAttribute(name, value);
    svg.append(document.createElementNS(space, "path"));
    svg.firstChild.setAttribute("d", path);
    return svg;
  }

  const word = (key, title) => (told.words["list_" + key] || "").replace("{title}", () => title);
  const newestFirst = (a, b) => b.at - a.at || (a.id < b.id ? 1 : -1);
  const titleOf = (entry) => entry.title || word("untitled");

  // What was drawn stays where it is unless it changed: with a thousand entries, drawing all anew took a third of a
  // second on a busy machine, and the focus and a half-typed name with it.
  const rows = new Map(), sections = new Map();

  function row(entry) {
    const { id } = entry;
    const state = JSON.stringify([entry.title, entry.match, entry.pinned, told.open === id, menuOf === id, renaming === id, told.language]);
    if (rows.get(id)?.state !== state) rows.set(id, { state, node: newRow(entry) });
    return rows.get(id).node;
  }

  /** Makes these the children of an element, and leaves alone what is already in its place. */
  function place(parent, wanted) {
    let at = parent.firstChild;
    for (const node of wanted) {
      if (node === at) at = at.nextSibling;
      else parent.insertBefore(node, at);
    }
    while (at) { const next = at.nextSibling; at.remove(); at = next; }
  }

  function newRow(entry) {
    const { id } = entry, title = titleOf(entry), isOpen = told.open === id, hasMenu = menuOf === id;
    if (renaming === id) {
      const box = element("input", { class: "rename", "data-id": id, "data-part": "rename", maxlength: 200, value: title, "aria-label": word("new_title") });
      return element("li", { class: "entry" }, box);
    }
    const match = entry.match && entry.match !== entry.title ? element("span", { class: "match", dir: "auto" }, entry.match) : null;
    return element("li", { class: "entry" + (isOpen ? " is-open" : "") },
      element("button", { type: "button", class: "open", "data-do": "open", "data-id": id, "data-part": "open", "aria-current": isOpen && "true", title },
        element("span", { class: "title", dir: "auto" }, title), match),
      element("button", { type: "button", class: "more", "data-do": "menu", "data-id": id, "data-part": "menu", "aria-expanded": String(hasMenu), "aria-label": word("menu", title) }, "⋯"),
      hasMenu ? menu(entry) : null);
  }

  function menu(entry) {
    const action = (what, text) => element("button", { type: "button", "data-do": what, "data-id": entry.id, "data-part": what }, text);
    return element("div", { class: "menu", role: "group", "aria-label": word("menu", titleOf(entry)) },
      action("rename", word("rename")), action("pin", word(entry.pinned ? "unpin" : "pin")),
      action("md", word("export_md")), action("json", word("export_json")), action("delete", word("delete")));
  }

  function group(title, entries) {
    if (!sections.has(title)) sections.set(title, element("section", {}, element("h3", {}, title), element("ul")));
    const section = sections.get(title);
    place(section.lastChild, entries.map(row));
    return section;
  }

  function groups(entries) {
    const now = new Date(), pinned = found ? [] : entries.filter((entry) => entry.pinned);
    const groups = pinned.length ? [group(word("pinned"), pinned)] : [];
    let title = "", some = [];
    for (const entry of found ? entries : entries.filter((one) => !one.pinned)) {
      const its = groupTitle(groupOf(new Date(entry.at * 1000), now), now);
      if (its !== title && some.length) { groups.push(group(title, some)); some = []; }
      title = its;
      some.push(entry);
    }
    if (some.length) groups.push(group(title, some));
    return groups;
  }

  function draw() {
    if (!nav) return;
    const shown = found || list, scroll = nav.list.scrollTop;
    const entries = [...shown.entries.values()].filter((entry) => !deleted.has(entry.id)).sort(newestFirst);
    const focused = focusAfterDraw || focusedPart();
    const nothing = found ? word("nothing_found") : isLoaded ? word("none") : problem ? "" : word("loading");
    place(nav.list, [...groups(entries),
      ...(entries.length || !nothing ? [] : [element("p", { class: "nothing" }, nothing)]),
      ...(shown.more ? [element("button", { type: "button", class: "show-more", "data-do": "more", "data-part": "more" }, word("more"))] : [])]);
    nav.list.scrollTop = scroll;
    nav.undo.replaceChildren(...[...deleted].map(([id, { entry }]) => element("div", { class: "undo" },
      element("span", { dir: "auto" }, word("deleted", titleOf(entry))),
      element("button", { type: "button", "data-do": "undo", "data-id": id, "data-part": "undo" }, word("undo")))));
    nav.problem.textContent = problem;
    nav.root.setAttribute("aria-label", word("title"));
    for (const [part, text] of [[nav.search, word("search")], [nav.import, word("import")]]) part.setAttribute("aria-label", text);
    nav.search.placeholder = word("search");
    nav.import.title = word("import");
    if (focused) focusOn(focused);
    focusAfterDraw = null;
  }

  function focusedPart() {
    const active = document.activeElement;
    return nav.root.contains(active) && active.dataset.part ? { id: active.dataset.id, part: active.dataset.part } : null;
  }

  function focusOn({ id, part }) {
    const parts = [...nav.root.querySelectorAll(`[data-part="${part}"]`)].filter((one) => one.dataset.id === id);
    parts[0]?.focus({ preventScroll: !focusAfterDraw });
  }

  // --- what people do

  function act(button) {
    const { do: what, id } = button.dataset, wasMenu = menuOf;
    menuOf = "";
    if (what === "open") open(id);
    else if (what === "menu") { menuOf = wasMenu === id ? "" : id; if (menuOf) focusAfterDraw = { id, part: "rename" }; }
    else if (what === "rename") { renaming = id; focusAfterDraw = { id, part: "rename" }; }
    else if (what === "pin") { focusAfterDraw = { id, part: "menu" }; pin(id, !entriesOf(id)[0]?.pinned); }
    else if (what === "md" || what === "json") { focusAfterDraw = { id, part: "menu" }; exportAs(id, what); }
    else if (what === "delete") return remove(id);
    else if (what === "undo") return undo(id);
    else if (what === "more") return more();
    draw();
    if (menuOf) nav.list.querySelector(".menu")?.scrollIntoView({ block: "nearest" });
    if (renaming) nav.list.querySelector(".rename")?.select();
  }

  function onKey(event) {
    const { target, key } = event;
    if (target.classList.contains("rename")) {
      if (key === "Enter" && !event.isComposing) { focusAfterDraw = { id: target.dataset.id, part: "open" }; rename(target.dataset.id, target.value); }
      if (key === "Escape") { focusAfterDraw = { id: renaming, part: "open" }; renaming = ""; draw(); }
    } else if (key === "Escape" && menuOf) {
      focusAfterDraw = { id: menuOf, part: "menu" };
      menuOf = "";
      draw();
    } else if (key === "Escape" && target === nav.search && target.value) {
      target.value = "";
      search("");
    } else if (["ArrowDown", "ArrowUp", "Home", "End"].includes(key) && target !== nav.search) {
      step(target, key);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Up and down go from entry to entry, inside a menu from one of its buttons to the next. */
  function step(from, key) {
    const inside = from.closest(".menu");
    const all = [...(inside ? inside.children : nav.list.querySelectorAll(".open"))];
    const at = all.indexOf(inside ? from : from.closest("li")?.querySelector(".open"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[key];
    all[Math.min(Math.max(to, 0), all.length - 1)]?.focus();
  }

  function build(beside) {
    const file = element("input", { type: "file", accept: ".json,application/json", hidden: true, tabindex: "-1" });
    nav = {
      search: element("input", { type: "search", id: "list-search", maxlength: 200, autocomplete: "off" }),
      import: element("button", { type: "button", id: "list-import" }, icon("M8 11V2M4.5 5.5 8 2l3.5 3.5M2 10v4h12v-4")),
      list: element("div", { id: "list" }),
      undo: element("div", { id: "list-undo", role: "status" }),
      problem: element("div", { id: "list-problem", role: "status" }),
    };
    nav.root = element("nav", { id: "conversation-list" },
      element("div", { class: "find" }, nav.search, nav.import, file), nav.problem, nav.list, nav.undo);
    nav.root.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-do]");
      if (button) act(button);
      else if (menuOf && !event.target.closest(".menu")) { menuOf = ""; draw(); }
    });
    nav.root.addEventListener("keydown", onKey);
    nav.root.addEventListener("focusout", (event) => {
      if (event.target.classList.contains("rename") && renaming && event.target.isConnected) rename(renaming, event.target.value);
    });
    nav.search.addEventListener("input", () => search(nav.search.value));
    nav.import.addEventListener("click", () => file.click());
    file.addEventListener("change", () => { if (file.files[0]) importFile(file.files[0]); file.value = ""; });
    beside.after(nav.root);
  }

  document.addEventListener("click", (event) => {
    if (menuOf && !event.composedPath().includes(nav.root)) { menuOf = ""; draw(); }
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && nav) refresh(); });

  // --- what Python tells

  function listen() {
    const holder = document.querySelector("#conversations");
    const state = holder?.querySelector("[data-token]");
    if (!state || (state.dataset.token === told.token && nav?.root.isConnected)) return;
    told = { open: state.dataset.open, token: state.dataset.token, language: state.dataset.language, words: JSON.parse(state.dataset.words) };
    if (!nav?.root.isConnected) build(holder.closest(".block") || holder);
    draw();
    refresh();
  }

  new MutationObserver(listen).observe(document.documentElement, { childList: true, subtree: true });
  listen();
  refresh(); // while Gradio still loads
  window.conversationList = { groupOf }; // for the tests
})();
