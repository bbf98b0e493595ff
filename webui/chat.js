/* What the chat column needs in the browser itself: drafts, the character meter, keys, focus, scrolling,
 * and waits that count down.
 *
 * Python tells it through attributes: `render.meter_html` which conversation is open and whether what is typed moves
 * along to it, `render.notice_html` how long to wait before the next message.
 */
(() => {
  "use strict";

  const KEY = "webui.draft.", MOST_DRAFTS = 50, SAVE_MS = 400, MOST_LEADING_MS = 20000;
  let open = null; // the conversation whose draft is in the box; null until the page has loaded its own state
  let saved = "";
  let leading = null; // after a choice in the list, until the page shows it: { from, to, until, sends }
  let hadStop = false, hasGrown = false; // older messages came during an answer, whose sizes nobody knows yet
  let watched = null; // the meter's holder

  const box = () => document.querySelector("#message textarea");
  const isShown = (element) => Boolean(element && element.offsetParent);

  // --- drafts: what is typed survives a reload, one for each conversation

  /** Storage may be refused (a frame without it): drafts are then not kept, and nothing else is lost. */
  function stored(what) {
    try { return what(localStorage); } catch { return null; }
  }

  const draftOf = (conversation) => stored((s) => s.getItem(KEY + (conversation || "new"))) || "";

  function keep(conversation, text) {
    const key = KEY + (conversation || "new");
    stored((s) => {
      if (!text) { s.removeItem(key); return; }
      s.setItem(key, text);
      const drafts = Object.keys(s).filter((name) => name.startsWith(KEY) && name !== key);
      drafts.slice(0, Math.max(0, drafts.length - MOST_DRAFTS)).forEach((name) => s.removeItem(name));
    });
  }

  function write(text) {
    const area = box();
    if (!area || area.value === text) return;
    area.value = text;
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function moveTo(conversation, isCarried) {
    const area = box();
    if (!area || conversation === open) return;
    const isFirst = open === null;
    if (isFirst) {
      if (!area.value) write(draftOf(conversation));
    } else if (isCarried) {
      keep(open, "");
      keep(conversation, area.value);
    } else {
      keep(open, area.value);
      write(draftOf(conversation));
      focusFree();
    }
    if (!isCarried) { follows = true; anchor = null; }
    open = conversation;
    saved = draftOf(conversation); // what was typed before the page knew where is still to be kept
  }

  /** The box belongs to what was chosen at once, so that nothing typed meanwhile goes to the conversation before. */
  function headFor(to) {
    const area = box(), from = leading ? leading.from : open;
    if (open === null || !area || to === open) return;
    keep(open, area.value);
    write(draftOf(to));
    open = to;
    saved = draftOf(to);
    leading = { from, to, until: Date.now() + MOST_LEADING_MS, sends: false };
    focusBox();
  }

  /** What the page shows, as its meter says: what was chosen, or, when that cannot be or takes too long, something else. */
  function place(shown, isCarried) {
    if (!leading) return moveTo(shown, isCarried);
    if (shown === leading.from && shown !== leading.to && Date.now() < leading.until) return;
    const { to, sends } = leading;
    leading = null;
    moveTo(shown, true);
    follows = true;
    anchor = null;
    focusFree();
    if (sends && shown === to) requestAnimationFrame(() => document.querySelector("#send")?.click());
  }

  function save() {
    const area = box();
    if (open === null || !area || area.value === saved) return;
    saved = area.value;
    keep(open, saved);
    count();
  }

  // --- the meter

  /** Not at the next look only: somebody who has just opened a conversation may type before that. */
  function watchMeter() {
    const found = document.querySelector("#meter");
    if (!found || found === watched) return;
    watched = found;
    new MutationObserver(look).observe(found, { childList: true, subtree: true });
  }

  function count() {
    const meter = document.querySelector("#meter .meter"), area = box();
    const chars = meter && meter.querySelector(".meter-chars");
    if (!chars || !area) return;
    const length = [...area.value].length;
    const said = length ? meter.dataset.chars.replace("#", length.toLocaleString("en")) : "";
    if (chars.textContent !== said) chars.textContent = said;
    chars.classList.toggle("meter-over", length > Number(meter.dataset.mostChars));
  }

  function look() {
    const meter = document.querySelector("#meter .meter");
    if (meter) place(meter.dataset.conversation, meter.dataset.carried === "true");
    watchMeter();
    count();
    watchStop();
    watchWait();
    watchLog();
  }

  // --- keys and focus

  function focusBox() {
    if (matchMedia("(pointer: fine)").matches && box()) box().focus();
  }

  function focusFree() {
    if (!document.activeElement || document.activeElement === document.body) focusBox();
  }

  /** When the stop button goes while it, or nothing, has the focus, the next message can be typed at once. */
  function watchStop() {
    const hasStop = isShown(document.querySelector("#stop"));
    const active = document.activeElement;
    if (hadStop && !hasStop && (!active || active === document.body || active.closest("#composer"))) focusBox();
    const hasEnded = hadStop && !hasStop;
    hadStop = hasStop;
    if (!hasStop) hasGrown = false;
    if (hasEnded) makeReachable();
    document.documentElement.toggleAttribute("data-answering", hasStop && !hasGrown);
  }

  /** A message that is sent before the page shows what was chosen goes when it does. */
  function holds() {
    if (leading) leading.sends = true;
    return Boolean(leading);
  }

  const SUBMIT = 0, CANCEL = 1; // which of the two buttons below a message that is being edited

  const editButtons = (area) => area.closest(".message-row").nextElementSibling?.querySelectorAll("button") ?? [];

  function finishEdit(area, which) {
    editButtons(area)[which]?.click();
    focusBox();
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest?.("#new-chat, #list .open, #send");
    if (!target) return;
    if (target.id === "send") {
      if (holds()) { event.preventDefault(); event.stopPropagation(); }
    } else {
      headFor(target.dataset.id || "");
    }
  }, true);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return; // an input method has the key
    const inBox = event.target === box();
    if (event.target.matches?.("#chat .edit-textarea")) {
      const isSent = event.key === "Enter" && (event.ctrlKey || event.metaKey);
      if (isSent || event.key === "Escape") { event.preventDefault(); finishEdit(event.target, isSent ? SUBMIT : CANCEL); }
    }
    if (event.key === "Escape" && (inBox || !event.target.closest?.("input, textarea, [role=dialog]"))) {
      const stop = document.querySelector("#stop");
      if (isShown(stop)) { event.preventDefault(); stop.click(); }
    }
    if (event.key === "Enter" && !event.shiftKey && inBox) {
      follows = true;
      if (waitIsOn() || holds()) { event.preventDefault(); event.stopPropagation(); }
    }
  }, true);

  // --- scrolling: the page follows an answer, but never pulls a reader who has scrolled up

  const NEAR_PX = 60;
  let log = null, follows = true, lastTop = 0, anchor = null;

  function heard() {
    const isNear = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PX;
    if (isNear) follows = true;
    else if (log.scrollTop < lastTop - 1) follows = false;
    lastTop = log.scrollTop;
  }

  function follow() {
    if (!log) return;
    if (anchor && log.scrollHeight > anchor.height) { // older messages came above what was read
      log.scrollTop = anchor.top + log.scrollHeight - anchor.height;
      anchor = null;
    } else if (follows && !anchor) {
      log.scrollTop = log.scrollHeight;
    }
    lastTop = log.scrollTop;
  }

  function watchLog() {
    const found = document.querySelector("#chat [role=log]");
    if (!found || found === log) return;
    log = found;
    log.addEventListener("scroll", heard, { passive: true });
    const soon = () => requestAnimationFrame(() => { follow(); makeReachable(); });
    new MutationObserver(soon).observe(log, { childList: true, subtree: true, characterData: true });
    new ResizeObserver(soon).observe(log);
    soon();
  }

  /** What is wider than the page scrolls with the keyboard, too, and the boxes of a list say what they tick. While an
   * answer comes only that is looked at: the messages above rest. */
  function makeReachable() {
    if (!log) return;
    const rows = hadStop ? [...log.querySelectorAll(".message-row")].slice(-2) : [log];
    for (const wide of rows.flatMap((row) => [...row.querySelectorAll(".prose :is(pre, table, .katex-display)")])) {
      const scrolls = wide.scrollWidth > wide.clientWidth;
      if (scrolls && wide.tabIndex < 0) wide.tabIndex = 0;
      else if (!scrolls && wide.hasAttribute("tabindex")) wide.removeAttribute("tabindex");
    }
    for (const box of log.querySelectorAll(".prose input[type=checkbox]:not([aria-label])")) {
      box.setAttribute("aria-label", box.parentElement.textContent.trim().slice(0, 200) || "☐");
    }
  }

  document.addEventListener("click", (event) => {
    if (log && event.target.closest?.("#older")) {
      anchor = { height: log.scrollHeight, top: log.scrollTop };
      follows = false;
      hasGrown = true;
      watchStop();
    }
    const area = document.querySelector("#chat .edit-textarea"), button = event.target.closest?.("button");
    if (button?.matches("#send, #retry, #go-on") || (area && button && editButtons(area)[SUBMIT] === button)) follows = true;
  }, true);

  // --- a wait that counts down and lets the next message go when it is over

  const waits = new WeakMap(); // a notice -> when its wait is over

  const waitIsOn = () => {
    const notice = document.querySelector("#notice [data-wait]");
    return Boolean(notice) && (waits.get(notice) ?? 0) > Date.now();
  };

  function watchWait() {
    const notice = document.querySelector("#notice [data-wait]");
    const send = document.querySelector("#send");
    if (notice && !waits.has(notice)) waits.set(notice, Date.now() + 1000 * Number(notice.dataset.wait));
    const isOn = waitIsOn();
    if (send && send.disabled !== isOn && (isOn || send.dataset.waits)) {
      send.disabled = isOn;
      if (isOn) send.dataset.waits = "true"; else delete send.dataset.waits;
    }
    if (!notice) return;
    if (isOn) {
      const left = notice.dataset.left.replace("#", Math.ceil((waits.get(notice) - Date.now()) / 1000));
      const place = notice.querySelector(".wait");
      if (place && place.textContent !== left) place.textContent = left;
    } else if (!notice.dataset.isOver) {
      notice.dataset.isOver = "true";
      notice.className = "notice";
      notice.textContent = notice.dataset.over;
    }
  }

  // ---

  document.addEventListener("input", (event) => { if (event.target === box()) count(); });
  addEventListener("pagehide", save);
  setInterval(() => { look(); save(); }, SAVE_MS);
})();
