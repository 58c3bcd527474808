// Values under the pointer, in the key of each chart.
for (const plot of document.querySelectorAll(".plot")) {
  const figure = plot.closest(".chart"), at = figure.querySelector(".at");
  const outputs = [...figure.querySelectorAll("output")], cursor = document.createElement("div");
  const low = Number(plot.dataset.low), high = Number(plot.dataset.high);
  const before = [at.textContent, ...outputs.map((output) => output.textContent)];
  let lines;
  const nearest = (steps, wanted) => {
    let left = 0, right = steps.length - 1;
    while (right - left > 1) {
      const middle = (left + right) >> 1;
      if (steps[middle] < wanted) left = middle; else right = middle;
    }
    return wanted - steps[left] < steps[right] - wanted ? left : right;
  };
  const show = (event) => {
    lines ??= [...plot.querySelectorAll("g")].map(({ dataset }) => (
      { steps: dataset.steps.split(" ").map(Number), values: dataset.values.split(" ") }));
    const { left, width } = plot.getBoundingClientRect();
    const wanted = low + (high - low) * (event.clientX - left) / width;
    const found = lines.map(({ steps }) => nearest(steps, wanted));
    const candidates = found.map((index, line) => lines[line].steps[index]);
    const step = candidates.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    const near = (high - low) / 100;  // thinned lines do not have points at the same steps
    at.textContent = `${at.dataset.along} ${step.toLocaleString("en")}`;
    outputs.forEach((output, line) => {
      output.textContent = Math.abs(candidates[line] - step) <= near ? lines[line].values[found[line]] : "–";
    });
    cursor.style.left = `${100 * (step - low) / (high - low)}%`;
    plot.append(cursor);
  };
  cursor.className = "cursor";
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", () => {
    cursor.remove();
    [at, ...outputs].forEach((element, index) => { element.textContent = before[index]; });
  });
}
// A click on the heading of a column sorts by it; what has no value stays at the end.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], rows = [...body.rows], headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    headings.forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = rows.map((row) => [row.cells[column].dataset.key, row]);
    const numeric = keyed.every(([key]) => key === "" || !Number.isNaN(Number(key)));
    keyed.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      return (up ? 1 : -1) * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    body.append(...keyed.map(([, row]) => row));
  }));
}
