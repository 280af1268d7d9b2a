"use strict";
(() => {
  const base = new URL(document.body.dataset.root, location.href).href.replace(/\/$/, "");
  for (const server of document.querySelectorAll(".server")) server.textContent = base;
  const copy = async (from) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(from.textContent);
    getSelection().selectAllChildren(from);
    if (!document.execCommand("copy")) throw new Error("cannot copy");
  };
  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const said = await copy(button.previousElementSibling).then(() => "Copied", () => "Select it");
      button.textContent = said;
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
