// The graphs before and after: zoom, pan, a panel of facts, and what belongs together in both.
(() => {
  "use strict";
  const MARGIN = 14, MOST = 4, STEP = 1.3, READABLE = 0.6, STILL = 4;

  class View {
    constructor(figure) {
      this.figure = figure;
      this.svg = figure.querySelector(".qc-svg");
      this.panel = figure.querySelector(".qc-panel");
      this.width = Number(this.svg.dataset.width);
      this.height = Number(this.svg.dataset.height);
      this.nodes = [...figure.querySelectorAll(".qc-node")].map((element) => new Shape(this, element));
      this.edges = [...figure.querySelectorAll(".qc-edge")].map((element) => {
        const [source, target] = element.dataset.ends.split(" ").map((i) => this.nodes[i]);
        source.next.push(target);
        target.last.push(source);
        return { element, source, target };
      });
      this.front = figure.querySelector(".qc-edge-label, .qc-node");
      this.pointers = new Map();
      this.moved = false;
      this.placed = false;
      figure.classList.add("qc-live");
      figure.querySelector(".qc-tools").hidden = false;
      this.nodes[0].element.setAttribute("tabindex", "0");
      this.listen();
      this.resized();
      new ResizeObserver(() => this.resized()).observe(this.svg);
    }

    listen() {
      const { svg } = this;
      this.figure.querySelector(".qc-tools").addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) this.command(button.dataset.do);
      });
      svg.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      svg.addEventListener("dblclick", (event) => this.zoom(2, this.at(event)));
      svg.addEventListener("pointerdown", (event) => this.down(event));
      svg.addEventListener("pointermove", (event) => this.move(event));
      for (const name of ["pointerup", "pointercancel"]) {
        svg.addEventListener(name, (event) => this.up(event));
      }
      svg.addEventListener("click", (event) => this.click(event));
      svg.addEventListener("pointerover", (event) => {
        if (event.pointerType === "touch" || this.pointers.size) return;
        const node = this.find(event.target);
        if (node) show(node); else show(pinned);
      });
      svg.addEventListener("pointerleave", () => show(pinned));
      svg.addEventListener("focusin", (event) => {
        const node = this.find(event.target);
        if (node && node.element.matches(":focus-visible")) pin(node);
      });
      svg.addEventListener("keydown", (event) => this.key(event));
    }

    find(element) {
      const group = element.closest(".qc-node");
      return group && this.nodes.find((node) => node.element === group);
    }

    // Where the picture lies: `x` and `y` are the drawing's, at the window's top left corner.
    draw() {
      const { clientWidth: w, clientHeight: h } = this.svg.parentElement;
      this.svg.setAttribute("viewBox", `${this.x} ${this.y} ${w / this.scale} ${h / this.scale}`);
    }

    size() {
      const { clientWidth: w, clientHeight: h } = this.svg.parentElement;
      return [w, h];
    }

    whole() {
      const [w, h] = this.size();
      return Math.min(w / (this.width + 2 * MARGIN), h / (this.height + 2 * MARGIN));
    }

    resized() {
      const [w, h] = this.size();
      if (!w || !h) return;
      if (this.placed) this.draw(); else this.start();
      this.placed = true;
    }

    start() {
      const [w] = this.size();
      const wide = w / (this.width + 2 * MARGIN);
      this.scale = Math.max(Math.min(1, READABLE), Math.min(1, wide));
      if (this.whole() >= READABLE) this.scale = Math.min(1, this.whole());
      const first = this.nodes[0].box;
      const spare = this.width + 2 * MARGIN - w / this.scale;
      const middle = first.x + first.width / 2 - w / this.scale / 2;
      this.x = spare > 0 ? Math.max(-MARGIN, Math.min(spare - MARGIN, middle)) : spare / 2 - MARGIN;
      this.y = -MARGIN;
      this.draw();
    }

    fit() {
      const [w, h] = this.size();
      this.scale = Math.min(1, this.whole());
      this.x = (this.width - w / this.scale) / 2;
      this.y = Math.min(-MARGIN, (this.height - h / this.scale) / 2);
      this.draw();
    }

    zoom(factor, at) {
      const [w, h] = this.size();
      const [x, y] = at || [w / 2, h / 2];
      const least = Math.min(0.9 * this.whole(), 0.5);
      const scale = Math.max(least, Math.min(MOST, this.scale * factor));
      this.x += x / this.scale - x / scale;
      this.y += y / this.scale - y / scale;
      this.scale = scale;
      this.keep();
      this.draw();
    }

    pan(dx, dy) {
      this.x -= dx / this.scale;
      this.y -= dy / this.scale;
      this.keep();
      this.draw();
    }

    // A part of the drawing stays in the window.
    keep() {
      const [w, h] = this.size().map((length) => length / this.scale);
      this.x = Math.max(-0.75 * w, Math.min(this.width - 0.25 * w, this.x));
      this.y = Math.max(-0.75 * h, Math.min(this.height - 0.25 * h, this.y));
    }

    reveal(node) {
      const [w, h] = this.size().map((length) => length / this.scale);
      const { x, y, width, height } = node.box;
      const inside = x >= this.x && x + width <= this.x + w && y >= this.y && y + height <= this.y + h;
      if (inside || !this.placed) return;
      this.x = x + width / 2 - w / 2;
      this.y = y + height / 2 - h / 2;
      this.draw();
    }

    command(name) {
      if (name === "in") this.zoom(STEP);
      else if (name === "out") this.zoom(1 / STEP);
      else if (name === "fit") this.fit();
      else this.start();
    }

    at(event) {
      const { left, top } = this.svg.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    }

    wheel(event) {
      if (!event.ctrlKey && active !== this) return;
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
      const speed = event.ctrlKey && Math.abs(event.deltaY) < 50 ? 0.01 : 0.002;
      this.zoom(Math.exp(-event.deltaY * lines * speed), this.at(event));
    }

    down(event) {
      if (event.button) return;
      if (!this.pointers.size) this.moved = false;
      this.pointers.set(event.pointerId, { start: this.at(event), now: this.at(event) });
    }

    move(event) {
      const pointer = this.pointers.get(event.pointerId);
      if (!pointer) return;
      const before = [...this.pointers.values()].map((one) => one.now);
      pointer.now = this.at(event);
      const after = [...this.pointers.values()].map((one) => one.now);
      if (!this.moved && distance(pointer.start, pointer.now) < STILL) return;
      if (!this.moved) {
        this.moved = true;
        this.svg.setPointerCapture(event.pointerId);
        this.figure.classList.add("qc-dragging");
      }
      const [a, b] = [middle(before), middle(after)];
      if (after.length > 1) {
        this.zoom(distance(after[0], after[1]) / Math.max(1, distance(before[0], before[1])), b);
      }
      if (event.pointerType !== "touch" || active === this || after.length > 1) this.pan(b[0] - a[0], b[1] - a[1]);
    }

    up(event) {
      this.pointers.delete(event.pointerId);
      if (!this.pointers.size) this.figure.classList.remove("qc-dragging");
    }

    click(event) {
      activate(this);
      if (this.moved) return;
      const node = this.find(event.target);
      pin(node && node !== pinned ? node : null);
      if (node) node.focus();
    }

    key(event) {
      const node = this.find(event.target);
      const commands = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "start" };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") {
        activate(null);
        pin(null);
      } else if (event.key in commands) {
        this.command(commands[event.key]);
      } else if (node && event.key.startsWith("Arrow")) {
        const other = node.neighbour(event.key);
        if (other) other.focus();
      } else {
        return;
      }
      event.preventDefault();
    }

    paint(nodes) {
      const chosen = new Set(nodes);
      for (const node of this.nodes) node.element.classList.toggle("qc-shown", chosen.has(node));
      for (const { element, source, target } of this.edges) {
        const shown = chosen.has(source) || chosen.has(target);
        element.classList.toggle("qc-shown", shown);
        if (shown) element.parentNode.insertBefore(element, this.front); // edges share their way
      }
      this.panel.replaceChildren(...(nodes.length ? nodes.flatMap((node) => node.facts()) : [hint()]));
      this.panel.scrollTop = 0;
    }
  }

  class Shape {
    constructor(view, element) {
      this.view = view;
      this.element = element;
      this.layers = JSON.parse(element.dataset.layers);
      this.next = [];
      this.last = [];
      const title = element.querySelector("title");
      this.lines = title.textContent.split("\n");
      title.remove(); // the panel says it
      element.setAttribute("role", "img");
      element.setAttribute("aria-label", this.lines.slice(0, 2).join(", "));
      element.setAttribute("tabindex", "-1");
      const { e: x, f: y } = element.transform.baseVal.consolidate().matrix;
      const box = element.querySelector(".qc-box");
      this.box = { x, y, width: box.width.baseVal.value, height: box.height.baseVal.value };
    }

    focus() {
      for (const node of this.view.nodes) node.element.setAttribute("tabindex", node === this ? "0" : "-1");
      this.element.focus({ preventScroll: true });
    }

    neighbour(key) {
      if (key === "ArrowDown") return this.next[0] || this.beside(1);
      if (key === "ArrowUp") return this.last[0] || this.beside(-1);
      return this.beside(key === "ArrowRight" ? 1 : -1);
    }

    // The one after or before it as one reads: by rows, and from left to right.
    beside(step) {
      const sorted = [...this.view.nodes].sort((a, b) => a.box.y - b.box.y || a.box.x - b.box.x);
      return sorted[sorted.indexOf(this) + step];
    }

    facts() {
      const [label, ...rest] = this.lines;
      const list = document.createElement("dl");
      for (const line of rest) {
        const colon = line.indexOf(": ");
        list.append(element("dt", colon < 0 ? "" : line.slice(0, colon)));
        list.append(element("dd", colon < 0 ? line : line.slice(colon + 2)));
      }
      return [element("h4", label), list];
    }
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  function hint() {
    return element("p", "Point at a node, tap it, or reach it with the arrow keys. Drag to move; Ctrl and the wheel, or two fingers, zoom: after a click or tap the wheel or one finger will do, until Escape.");
  }

  const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  const middle = (points) => [0, 1].map((i) => points.reduce((sum, p) => sum + p[i], 0) / points.length);

  let active = null;
  let pinned = null;
  const views = [...document.querySelectorAll(".qc-graph")].map((figure) => new View(figure));

  function activate(view) {
    active = view;
    for (const one of views) one.figure.classList.toggle("qc-active", one === view);
  }

  // What belongs to a node: itself, and in the other graph what computes the same layers.
  function partners(node, view) {
    if (node.view === view) return [node];
    return view.nodes.filter((other) => other.layers.some((layer) => node.layers.includes(layer)));
  }

  function show(node) {
    for (const view of views) view.paint(node ? partners(node, view) : []);
  }

  function pin(node) {
    pinned = node;
    show(node);
    if (!node) return;
    for (const view of views) {
      const found = partners(node, view);
      if (found.length) view.reveal(found[0]);
    }
  }

  document.addEventListener("pointerdown", (event) => {
    if (active && !active.figure.contains(event.target)) activate(null);
  });
  show(null);
})();
