const list = document.getElementById("cases");
const cases = [...list.children];
const order = document.getElementById("order");
const choice = document.getElementById("choice");
const count = document.getElementById("count");

function arrange() {
  const key = order.value;
  const value = (one) => (key in one.dataset ? Number(one.dataset[key]) : -Infinity);
  const shown = cases.filter((one) => !choice.value || one.dataset.choices.split(",").includes(choice.value));
  shown.sort((a, b) => (key ? value(b) - value(a) : cases.indexOf(a) - cases.indexOf(b)) || cases.indexOf(a) - cases.indexOf(b));
  list.replaceChildren(...shown);
  count.textContent = `${shown.length} of ${cases.length} shown`;
}

order.addEventListener("change", arrange);
choice.addEventListener("change", arrange);
document.getElementById("controls").hidden = false;
arrange();
