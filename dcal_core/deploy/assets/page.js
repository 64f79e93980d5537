// The two pictures of the page: chosen, dropped, pasted or taken from an example; sent as they are, and kept nowhere.
// Gradio gives: element, trigger, props.
const slots = [...element.querySelectorAll(".slot")];
const button = element.querySelector(".compare");
const note = element.querySelector(".note");
const most = Number(element.querySelector(".pair").dataset.mostMb);
const pictures = [null, null];

function show(number, picture) {
  pictures[number] = picture;
  const image = slots[number].querySelector("img");
  image.src = picture ?? "";
  image.hidden = picture === null;
  button.disabled = pictures.includes(null);
}

function read(number, file) {
  note.textContent = "";
  if (file.size > most * 2 ** 20) {
    note.textContent = `${file.name} has ${(file.size / 2 ** 20).toFixed(1)} MB: give a picture of at most ${most} MB.`;
    return;
  }
  const reader = new FileReader();
  reader.onload = () => show(number, reader.result);
  reader.onerror = () => { note.textContent = `${file.name} cannot be read.`; };
  reader.readAsDataURL(file);
}

function compare() {
  note.textContent = "";
  props.value = pictures.join(" ");
  trigger("submit");
}

slots.forEach((slot, number) => {
  const input = slot.querySelector("input");
  input.addEventListener("change", () => {
    if (input.files.length) read(number, input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  slot.addEventListener("dragover", (event) => event.preventDefault());
  slot.addEventListener("drop", (event) => {
    event.preventDefault();
    [...event.dataTransfer.files].slice(0, 2).forEach((file, n) => read((number + n) % 2, file));
  });
  // What the browser cannot show may still be a picture, and what it can show may be none: the answer says so.
  slot.querySelector("img").addEventListener("error", (event) => { event.target.hidden = true; });
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) read(Math.max(pictures.indexOf(null), 0), event.clipboardData.files[0]);
});
element.querySelectorAll(".example").forEach((example) => {
  example.addEventListener("click", () => {
    example.querySelectorAll("img").forEach((image, number) => show(number, image.src));
    compare();
  });
});
button.addEventListener("click", compare);
