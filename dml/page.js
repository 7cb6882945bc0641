// Tables can be sorted by each column, with the keyboard too; without a script they stay as they are.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(table, heads, column));
    head.append(button);
  });
}

function sort(table, heads, column) {
  const numeric = heads[column].classList.contains("number");
  const before = heads[column].getAttribute("aria-sort");
  const order = before ? (before === "descending" ? "ascending" : "descending") : numeric ? "descending" : "ascending";
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...table.tBodies[0].rows].map((row) => [key(row, heads.length, column, numeric), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what has no value stays last
    return sign * (numeric ? a - b : a.localeCompare(b));
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function key(row, width, column, numeric) {
  if (row.cells.length < width && column > 0) return null; // a method that failed has one cell for all of its values
  const text = row.cells[column].textContent.trim();
  if (!numeric) return text;
  const value = parseFloat(text.replace("−", "-").replace(/^[^\d.+-]+/, ""));
  return Number.isNaN(value) ? null : value;
}
