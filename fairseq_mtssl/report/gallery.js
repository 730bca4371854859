"use strict";
// Cards open on a click on their heading or their pictures; the choice above them shows some or all.
for (const gallery of document.querySelectorAll(".gallery")) {
  const cards = [...gallery.querySelectorAll(".card")];
  const count = gallery.querySelector("output");
  const all = gallery.querySelector("button.all");
  const button = (card) => card.querySelector("h3 button");
  const shown = () => cards.filter((card) => !card.hidden);

  function open(card, state) {
    card.classList.toggle("open", state);
    button(card).setAttribute("aria-expanded", state);
    if (!state) card.querySelectorAll(".more audio").forEach((audio) => audio.pause());
  }

  function refresh() {
    count.textContent = `${shown().length} of ${cards.length} shown`;
    all.textContent = shown().every((card) => card.classList.contains("open")) ? "Close all" : "Open all";
    all.disabled = shown().length === 0;
  }

  function choose(which) {
    for (const card of cards) {
      card.hidden = which !== "all" && card.dataset.outcome !== which;
      if (card.hidden) card.querySelectorAll("audio").forEach((audio) => audio.pause());
    }
    refresh();
  }

  gallery.addEventListener("change", (event) => {
    if (event.target.type === "radio") choose(event.target.value);
  });
  gallery.addEventListener("click", (event) => {
    if (event.target.closest("button.all")) {
      const state = !shown().every((card) => card.classList.contains("open"));
      shown().forEach((card) => open(card, state));
    } else if (event.target.closest("h3 button, .pictures, .asked > figure")) {
      const card = event.target.closest(".card");
      open(card, !card.classList.contains("open"));
    }
    refresh();
  });
  for (const card of cards) open(card, false);
  choose(gallery.querySelector("input:checked").value); // a browser may remember it from before a reload
}

// one voice at a time
document.addEventListener("play", (event) => {
  for (const audio of document.querySelectorAll("audio")) if (audio !== event.target) audio.pause();
}, true);
