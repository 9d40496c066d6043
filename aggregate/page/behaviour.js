"use strict";
// All of this is convenience: the page can be read whole without it.
{
  const root = document.documentElement;
  const KEY = "stillhouse-theme";

  // --- theme -----------------------------------------------------------------------------------------------------

  const remembered = () => {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a page from disk may have no storage
    }
  };

  const remember = (theme) => {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // then the next visit asks the system again
    }
  };

  const systemTheme = matchMedia("(prefers-color-scheme: dark)");
  const theme = () => root.dataset.theme || (systemTheme.matches ? "dark" : "light");
  if (["dark", "light"].includes(remembered())) root.dataset.theme = remembered(); // before anything is painted

  const enhanceTheme = (button) => {
    const say = () => button.setAttribute("aria-pressed", String(theme() === "dark"));
    button.addEventListener("click", () => {
      root.dataset.theme = theme() === "dark" ? "light" : "dark";
      remember(root.dataset.theme);
      say();
    });
    systemTheme.addEventListener("change", say);
    say();
  };

  // --- tables ----------------------------------------------------------------------------------------------------

  // What is sorted and filtered: rows, or in the list of runs bodies of two rows each.
  const isGrouped = (table) => table.classList.contains("grouped");
  const items = (table) => [...(isGrouped(table) ? table.tBodies : table.tBodies[0].rows)];
  const cellsOf = (item) => (item.rows ? item.rows[0] : item).cells;

  const collator = new Intl.Collator(undefined, { numeric: true });
  const byNumber = (one, other) => one - other;

  const sorted = (all, column, isNumber, sign) => {
    const valueOf = (cell) => (isNumber ? (cell.dataset.value ?? "") : cell.textContent);
    const keyed = all.map((item) => ({ item, value: valueOf(cellsOf(item)[column]) }));
    const compare = isNumber ? byNumber : collator.compare;
    const known = keyed.filter((each) => each.value !== "");
    const unknown = keyed.filter((each) => each.value === ""); // last, whichever way
    known.sort((one, other) => sign * compare(one.value, other.value));
    return [...known, ...unknown].map((each) => each.item);
  };

  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

  const enhanceSorting = (table) => {
    const asWritten = items(table);
    const heads = [...table.tHead.rows[0].cells].filter((head) => !head.classList.contains("runs"));
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const order = NEXT[head.getAttribute("aria-sort") ?? "none"];
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        if (order !== "none") head.setAttribute("aria-sort", order);
        const sign = order === "descending" ? -1 : 1;
        const isNumber = head.classList.contains("n");
        const all = order === "none" ? asWritten : sorted(asWritten, column, isNumber, sign);
        (isGrouped(table) ? table : table.tBodies[0]).append(...all);
      });
    });
  };

  // A number leads to the runs behind it, unless the reader is marking text.
  const enhanceNumbers = (table) =>
    table.addEventListener("click", (event) => {
      const details = event.target.closest("td.n")?.parentElement.querySelector("details");
      if (details && getSelection().isCollapsed) details.open = !details.open;
    });

  // --- filter ----------------------------------------------------------------------------------------------------

  const words = (item) =>
    [...cellsOf(item)]
      .filter((cell) => !cell.matches(".n, .runs, .marks"))
      .map((cell) => cell.textContent.toLowerCase())
      .join("\n");

  const enhanceFilter = (input, count, tables) => {
    const searched = tables.flatMap((table) => items(table).map((item) => ({ item, said: words(item) })));
    const filter = () => {
      const asked = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const { item, said } of searched) {
        item.hidden = !asked.every((word) => said.includes(word));
        shown += !item.hidden;
      }
      count.textContent = asked.length ? `${shown} of ${searched.length} rows` : "";
    };
    input.addEventListener("input", filter);
    addEventListener("hashchange", () => {
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (!target?.hidden) return;
      input.value = ""; // or the link would lead to nothing
      filter();
      target.scrollIntoView();
    });
    filter(); // browsers keep what was typed when a page is loaded again
  };

  // --- commands --------------------------------------------------------------------------------------------------

  const copy = async (code, button) => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    } catch {
      getSelection().selectAllChildren(code); // one key press away
    }
  };

  const enhanceCommand = (code) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", "Copy the command");
    button.addEventListener("click", () => copy(code, button));
    code.after(button);
  };

  // --- figures ---------------------------------------------------------------------------------------------------

  const enhanceFigures = (links) => {
    const dialog = document.createElement("dialog");
    const [close, image, caption] = ["button", "img", "p"].map((name) => document.createElement(name));
    close.type = "button";
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.append(close, image, caption);
    document.body.append(dialog);
    for (const link of links) {
      const small = link.querySelector("img");
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        image.src = small.src;
        image.alt = small.alt;
        dialog.setAttribute("aria-label", small.alt);
        caption.textContent = link.parentElement.querySelector("figcaption").firstChild.textContent;
        dialog.showModal();
      });
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    const find = (selector) => [...document.querySelectorAll(selector)];
    const [tools, input, count, button] = find("#tools, #filter, #count, #theme");
    const tables = find("main table");
    tables.forEach(enhanceSorting);
    tables.forEach(enhanceNumbers);
    enhanceFilter(input, count, tables);
    enhanceTheme(button);
    find(".command").forEach(enhanceCommand);
    enhanceFigures(find(".picture:has(img)"));
    root.classList.add("js");
    tools.hidden = false;
  });
}
