const values = JSON.parse(document.getElementById("values").textContent);

function element(tag, parent, text) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function csvText(lines) {
  const cell = (value) => `"${String(value).replaceAll('"', '""')}"`;
  return lines.map((line) => line.map(cell).join(",")).join("\r\n") + "\r\n";
}

function saveTable(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
}
