/* A copied message is what was written. The chatbot holds it with backslashes in front of tags and marks around
 * formulas (`tags.py`) and copies it so; here they are taken away again.
 */
(() => {
  "use strict";

  // Both as in `tags.py`.
  const VERBATIM = new RegExp([
    "```[^]*?(?:```|$)", "~~~[^]*?(?:~~~|$)", "(`+)(?!`)[^]{1,2000}?(?<!`)\\1(?!`)",
    "(?<!\\$)\\$\\$[^$`]+\\$\\$(?!\\$)",
    "(?<![\\\\$A-Za-z0-9])\\$(?!\\s)(?:\\\\[^\\n`]|[^$\\n\\\\`])+(?<!\\s)\\$(?![\\d$])",
    "(?<![\\\\$A-Za-z0-9])\\$ (?!\\s)(?:\\\\[^\\n`]|[^$\\n\\\\`])+(?<!\\s) \\$(?! ?[\\d$])",
    "\\\\\\[(?:(?!\\\\[\\[\\]])[^])+\\\\\\]", "\\\\\\((?:(?!\\\\[()])[^])+\\\\\\)",
  ].join("|"), "gu");
  const MARKS = /[\u2061\u2062]/g; // around formulas
  const TAG_START = /(?<!\\)(\\*)<(?=[A-Za-z/!?])/g;
  const SOON_MS = 1_000;

  const fewer = {
    user: (count) => (count % 2 ? (count - 1) / 2 : count),
    bot: (count) => (count % 2 ? count - 1 : count), // a backslash that a model wrote itself goes, too: nobody can tell
  };

  function written(text, role) {
    const change = (part) => part.replace(TAG_START, (_, slashes) => "\\".repeat(fewer[role](slashes.length)) + "<");
    let made = "", end = 0;
    text = text.replace(MARKS, "");
    for (const found of text.matchAll(VERBATIM)) {
      made += change(text.slice(end, found.index)) + found[0];
      end = found.index + found[0].length;
    }
    return made + change(text.slice(end));
  }

  let copied = null; // whose message is being copied, and until when that counts

  document.addEventListener("click", (event) => {
    const buttons = event.target.closest?.("#chat .message-buttons");
    copied = buttons && { role: buttons.previousElementSibling?.matches(".user-row") ? "user" : "bot", at: Date.now() };
  }, true);

  function taken(text) {
    const role = copied && Date.now() - copied.at < SOON_MS ? copied.role : "";
    copied = null;
    return role ? written(text, role) : text;
  }

  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(taken(text));
  }
  document.addEventListener("copy", (event) => { // over plain HTTP browsers have no such clipboard; Gradio copies a field
    if (!copied || !(event.target instanceof HTMLTextAreaElement)) return;
    event.clipboardData.setData("text/plain", taken(event.target.value));
    event.preventDefault();
  }, true);

  window.copying = { written }; // for the tests
})();
