// Adds sorting to every table; the page is complete without it. Rows stay within their group.
document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("thead th[data-sort]").forEach(function (head) {
    var button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by " + head.dataset.sort;
    while (head.firstChild) button.appendChild(head.firstChild);
    head.appendChild(button);
    button.addEventListener("click", function () {
      var before = head.getAttribute("aria-sort");
      var first = head.dataset.better === "higher" ? "descending" : "ascending";
      var order = before ? (before === "ascending" ? "descending" : "ascending") : first;
      table.querySelectorAll("th[aria-sort]").forEach(function (th) { th.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", order);
      var sign = order === "ascending" ? 1 : -1;
      table.querySelectorAll("tbody").forEach(function (body) {
        var rows = Array.prototype.slice.call(body.querySelectorAll("tr:not(.group)"));
        rows.sort(function (a, b) {
          var x = a.cells[head.cellIndex], y = b.cells[head.cellIndex];
          x = x ? x.dataset.v : undefined;
          y = y ? y.dataset.v : undefined;
          if (x === undefined || x === "") return 1;
          if (y === undefined || y === "") return -1;
          return sign * (isNaN(x) || isNaN(y) ? String(x).localeCompare(y) : x - y);
        });
        rows.forEach(function (row) { body.appendChild(row); });
      });
    });
  });
});
