"use strict";
(() => {
  const root = document.documentElement;
  const data = (id) => JSON.parse(document.getElementById(id).textContent);

  const save = (name, type, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  // The picture alone, in the colours of paper: other programs know no custom properties.
  const drawing = (name) => {
    const palette = data("qc-palette");
    const copy = document.querySelector(`#figure-${CSS.escape(name)} .wide svg`).cloneNode(true);
    copy.setAttribute("font-family", "Helvetica, Arial, sans-serif");
    const { width, height } = copy.viewBox.baseVal;
    for (const [key, value] of Object.entries({ width, height })) copy.setAttribute(key, value);
    const text = new XMLSerializer().serializeToString(copy);
    return text.replace(/var\(--qc-([\w-]+)\s*(?:,[^()]*)?\)/g, (whole, key) => palette[key] ?? whole);
  };

  const theme = () => {
    const button = document.getElementById("theme");
    const system = matchMedia("(prefers-color-scheme: dark)");
    const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
    const label = () => { button.textContent = dark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      label();
    });
    system.addEventListener("change", label);
    label();
    button.hidden = false;
  };

  // What a row is sorted by: numbers before words, what is not known last either way.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.classList.contains("n")) return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    return cell.textContent.trim().toLowerCase();
  };

  const sort = (table, head) => {
    const was = head.getAttribute("aria-sort");
    const first = head.classList.contains("n") ? "descending" : "ascending";
    const now = was === null ? first : was === "ascending" ? "descending" : "ascending";
    const sign = now === "descending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", now);
    const body = table.tBodies[0];
    const rows = [...body.rows].filter((row) => !row.classList.contains("sum"));
    const keyed = rows.map((row) => [key(row, head.cellIndex), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    body.prepend(...keyed.map(([, row]) => row));
  };

  const sortable = (table) => {
    for (const head of table.tHead.rows[0].cells) {
      if (!head.textContent.trim()) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head));
      head.append(button);
    }
  };

  theme();
  document.querySelectorAll("table[data-sortable]").forEach(sortable);
  document.querySelectorAll(".save").forEach((button) => { button.hidden = false; });
  document.querySelectorAll(".no-script").forEach((text) => { text.hidden = true; });
  document.querySelectorAll("[data-save]").forEach((button) => {
    const name = button.dataset.save;
    button.addEventListener("click", () => save(`${name}.svg`, "image/svg+xml", drawing(name)));
  });
  const numbers = document.getElementById("save-numbers");
  numbers.addEventListener("click", () => {
    const text = document.getElementById("qc-numbers").textContent;
    save(`${numbers.dataset.name}.json`, "application/json", JSON.stringify(JSON.parse(text), null, 1) + "\n");
  });
})();
