"use strict";
// Tables are sorted by a click on a column's name; pictures are shown in full size by a click.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = rows.map((row) => {
        const cell = row.cells[column];
        const text = cell ? cell.textContent.trim() : "";
        const number = cell && "v" in cell.dataset ? Number(cell.dataset.v) : NaN;
        return { row, text, number, none: text === "" || text === "-" };
      });
      keyed.sort((a, b) => {
        if (a.none || b.none) return a.none - b.none; // without a value: last, either way
        const known = [Number.isNaN(a.number), Number.isNaN(b.number)];
        let order = known[0] - known[1];
        if (!order) order = known[0] ? a.text.localeCompare(b.text, "en") : a.number - b.number;
        return down ? -order : order;
      });
      body.append(...keyed.map((one) => one.row));
    });
  });
}
for (const figure of document.querySelectorAll(".picture")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "full size";
  button.addEventListener("click", () => {
    button.textContent = figure.classList.toggle("full") ? "fit to page" : "full size";
  });
  figure.append(button);
}
