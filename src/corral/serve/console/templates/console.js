// Keeps [data-refresh] parts up to date. Without it every page still works; the overview is then as old as its load.
"use strict";
const EVERY_MS = 5000;

async function refresh(part) {
  if (document.hidden || part.dataset.paused || part.contains(document.activeElement)) return;
  try {
    const answer = await fetch(part.dataset.refresh, { headers: { Accept: "text/html" } });
    if (answer.status === 401) location.reload();
    // The console's own page, in which the server escaped every value.
    if (answer.ok) part.innerHTML = await answer.text();
  } catch {
    // The server is away; the next round tries again.
  }
}

for (const part of document.querySelectorAll("[data-refresh]")) setInterval(refresh, EVERY_MS, part);

for (const button of document.querySelectorAll("[data-pause]")) {
  button.addEventListener("click", () => {
    const part = document.getElementById(button.dataset.pause);
    const paused = !part.dataset.paused;
    part.dataset.paused = paused ? "1" : "";
    button.setAttribute("aria-pressed", String(paused));
  });
}
