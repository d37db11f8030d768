/** There are no charts here to draw again. */
function redraw() {}

try {
  themes();
  printing();
  tables();
  document.body.dataset.ready = "yes";
} catch (error) {
  complain(error);
}
