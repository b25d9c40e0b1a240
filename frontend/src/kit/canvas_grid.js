// A heat map on a canvas that draws only the cells in view, so that a thousand tokens scroll as smoothly as ten.
// The row labels (left) and column labels (bottom) stay in place; arrow keys move a cursor that is also read aloud.

import { h } from "./dom.js";
import { painted, variable } from "./theme.js";
import { hideTip, showTip } from "./tooltip.js";

/**
 * options:
 *   rows, cols         counts
 *   size(width)        → {cellWidth, cellHeight} for the width that cells may fill
 *   left, bottom       room for the labels, in pixels;  top: room above the first row
 *   maxHeight          where the grid starts to scroll vertically
 *   label              for screen readers
 *   cell(r, c)         → {fill, rgb, ink, text}; null for a cell that stays empty
 *   rowLabel, colLabel (index) → visible text; upright: column labels are turned to run upwards
 *   tip(r, c)          → nodes;  say(r, c) → text read aloud
 *   onCell(r, c)       pointer or cursor is there (null, null when it left);  onPick(r, c) a click or Enter
 *   frame              () → {row, col} to outline, each may be absent
 *   start              "right" or "bottom": the side that is in view first
 */
export function canvasGrid(options) {
  const { rows, cols, left, bottom, top = 0, upright = false } = options;
  const canvas = h("canvas", { class: "grid-canvas", "aria-hidden": "true" });
  const spacer = h("div", { class: "grid-spacer" }, canvas);
  const scroller = h(
    "div",
    {
      class: "grid",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "heat map",
      "aria-label": options.label,
    },
    spacer,
  );
  const live = h("div", { class: "unseen", "aria-live": "polite" });
  const context = canvas.getContext("2d");
  const small = document.createElement("canvas");
  const fitted = new Map();
  let cellWidth = 1,
    cellHeight = 1,
    width = 0,
    height = 0,
    cursor = null,
    queued = false,
    moved = false;

  function measure() {
    const room = scroller.parentElement?.clientWidth ?? 0;
    if (!room) return;
    ({ cellWidth, cellHeight } = options.size(room - left - 1));
    const full = { width: left + cols * cellWidth + 1, height: top + rows * cellHeight + bottom };
    width = Math.min(room, full.width);
    height = Math.min(options.maxHeight ?? Infinity, full.height);
    spacer.style.setProperty("width", `${full.width}px`);
    spacer.style.setProperty("height", `${full.height}px`);
    scroller.style.setProperty("width", `${width}px`);
    // A horizontal scroll bar takes its own room, below the labels.
    scroller.style.setProperty("height", `${height + (full.width > width ? scrollBar() : 0)}px`);
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.setProperty("width", `${width}px`);
    canvas.style.setProperty("height", `${height}px`);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    // Any spacing at all switches ligatures off: tokens such as "!=" or "<|" must keep their characters.
    context.letterSpacing = "0.001px";
    fitted.clear();
    if (options.start === "right" && !moved) scroller.scrollLeft = full.width;
    if (options.start === "bottom" && !moved) scroller.scrollTop = full.height;
    draw();
  }

  const scrollBar = () => scroller.offsetHeight - scroller.clientHeight || 0;

  const redraw = () => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      draw();
    });
  };

  function draw() {
    if (!width) return;
    const { scrollLeft, scrollTop } = scroller;
    const bodyHeight = height - bottom;
    const gap = Math.min(cellWidth, cellHeight) >= 9 ? 1 : 0;
    const mono = variable("--mono");
    const first = {
      r: Math.max(0, Math.floor((scrollTop - top) / cellHeight)),
      c: Math.max(0, Math.floor(scrollLeft / cellWidth)),
    };
    const last = {
      r: Math.min(rows - 1, Math.floor((scrollTop + bodyHeight - top) / cellHeight)),
      c: Math.min(cols - 1, Math.floor((scrollLeft + width - left) / cellWidth)),
    };
    const x = (c) => left + c * cellWidth - scrollLeft;
    const y = (r) => top + r * cellHeight - scrollTop;
    context.clearRect(0, 0, width, height);
    context.textBaseline = "middle";

    context.save();
    context.beginPath();
    context.rect(left, 0, width - left, bodyHeight);
    context.clip();
    context.font = `${cellHeight >= 20 ? 11 : 10}px ${mono}`;
    if (!gap) drawPixels(x, y, first, last);
    for (let r = first.r; gap && r <= last.r; r++) {
      for (let c = first.c; c <= last.c; c++) {
        const painted = options.cell(r, c);
        if (!painted) continue;
        const { fill, ink, text } = painted;
        context.fillStyle = fill;
        context.fillRect(x(c), y(r), cellWidth - gap, cellHeight - gap);
        if (text && cellHeight >= 11)
          drawToken(fit(text, cellWidth - 9), x(c) + 4, y(r) + cellHeight / 2, ink);
      }
    }
    const frame = options.frame?.() ?? {};
    if (frame.col !== undefined)
      outline(x(frame.col) - 1, y(0) + 0.75, cellWidth + 1, rows * cellHeight - 1.5);
    if (frame.row !== undefined)
      outline(left + 0.75, y(frame.row) - 0.5, Math.min(width - left, cols * cellWidth) - 1.5, cellHeight);
    if (cursor) outline(x(cursor.c) - 0.5, y(cursor.r) - 0.5, cellWidth, cellHeight);
    context.restore();

    drawLabels(x, y, first, last, bodyHeight, frame, mono);
  }

  // Cells too small for gaps or text, up to tens of thousands at once: one pixel each, then enlarged.
  function drawPixels(x, y, first, last) {
    const across = last.c - first.c + 1,
      down = last.r - first.r + 1;
    if (across < 1 || down < 1) return;
    const pixels = new ImageData(across, down);
    for (let r = 0, at = 0; r < down; r++) {
      for (let c = 0; c < across; c++, at += 4) {
        const painted = options.cell(first.r + r, first.c + c);
        if (!painted) continue;
        pixels.data.set(painted.rgb, at);
        pixels.data[at + 3] = 255;
      }
    }
    small.width = across;
    small.height = down;
    small.getContext("2d").putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, x(first.c), y(first.r), across * cellWidth, down * cellHeight);
  }

  // Dark on light with a light edge (or the reverse), so that it shows on every cell; around small ones, to spare them.
  function outline(x, y, w, h) {
    const out = Math.min(cellWidth, cellHeight) < 9 ? 1.5 : 0;
    const box = [x - out, y - out, w + 2 * out, h + 2 * out];
    if (!out) {
      context.lineWidth = 4;
      context.strokeStyle = variable("--paper");
      context.strokeRect(...box);
    }
    context.lineWidth = out ? 1.25 : 1.75;
    context.strokeStyle = variable("--ink");
    context.strokeRect(...box);
  }

  function drawLabels(x, y, first, last, bodyHeight, frame, mono) {
    const plain = variable("--ink-2"),
      strong = variable("--ink");
    context.save();
    context.beginPath();
    context.rect(0, 0, left, bodyHeight);
    context.clip();
    const rowShown = spaced(Math.max(1, Math.ceil(11 / cellHeight)), [cursor?.r, frame.row]);
    for (let r = first.r; r <= last.r; r++) {
      const on = r === cursor?.r || r === frame.row;
      if (!rowShown(r)) continue;
      context.font = `${on ? 600 : 400} 10.5px ${mono}`;
      const text = fit(options.rowLabel(r), left - 12);
      drawToken(text, left - 8 - measured(text), y(r) + cellHeight / 2, on ? strong : plain);
    }
    context.restore();

    context.save();
    context.beginPath();
    context.rect(left - 2, bodyHeight, width - left + 2, bottom);
    context.clip();
    const colShown = spaced(Math.max(1, Math.ceil((upright ? 11 : 24) / cellWidth)), [cursor?.c, frame.col]);
    for (let c = first.c; c <= last.c; c++) {
      const on = c === cursor?.c || c === frame.col;
      if (!colShown(c)) continue;
      context.font = `${on ? 600 : 400} 10.5px ${mono}`;
      const ink = on ? strong : plain;
      if (upright) {
        context.save();
        context.translate(x(c) + cellWidth / 2, bodyHeight + 6);
        context.rotate(Math.PI / 2);
        drawToken(fit(options.colLabel(c), bottom - 10), 0, 0, ink);
        context.restore();
      } else {
        drawToken(fit(options.colLabel(c), cellWidth - 6), x(c) + 4, bodyHeight + 12, ink);
        if (bottom >= 34) {
          context.font = `400 9.5px ${mono}`;
          context.fillStyle = variable("--ink-3");
          context.fillText(String(c), x(c) + 4, bodyHeight + 26);
        }
      }
    }
    context.restore();
  }

  // Every so many labels, and always those in `strong`, from which the others keep their distance.
  function spaced(every, strong) {
    const kept = strong.filter((index) => index !== undefined);
    return (index) =>
      kept.includes(index) ||
      (index % every === 0 && kept.every((other) => Math.abs(index - other) >= every));
  }

  const measured = (text) => context.measureText(text).width;

  // A leading space mark is set back, as it is in running tokens.
  function drawToken(text, atX, atY, ink) {
    context.fillStyle = ink;
    const marks = /^[␣↵⇥∅]+/u.exec(text)?.[0] ?? "";
    if (marks) {
      context.globalAlpha = 0.45;
      context.fillText(marks, atX, atY);
      context.globalAlpha = 1;
    }
    if (marks.length < text.length)
      context.fillText(text.slice(marks.length), atX + (marks ? measured(marks) : 0), atY);
  }

  function fit(text, room) {
    const key = `${context.font}|${Math.round(room)}|${text}`;
    let short = fitted.get(key);
    if (short !== undefined) return short;
    short = text;
    if (measured(text) > room) {
      const letters = Array.from(text.slice(0, 200));
      while (letters.length && measured(letters.join("") + "…") > room) letters.pop();
      short = letters.length ? letters.join("") + "…" : "";
    }
    fitted.set(key, short);
    return short;
  }

  function at(event) {
    const bounds = scroller.getBoundingClientRect();
    const c = Math.floor((event.clientX - bounds.left - left + scroller.scrollLeft) / cellWidth);
    const below = event.clientY - bounds.top;
    const r = Math.floor((below - top + scroller.scrollTop) / cellHeight);
    const inside =
      event.clientX - bounds.left >= left &&
      below < height - bottom &&
      r >= 0 &&
      r < rows &&
      c >= 0 &&
      c < cols;
    return inside ? { r, c } : null;
  }

  function go(to) {
    cursor = to;
    options.onCell?.(to?.r ?? null, to?.c ?? null);
    redraw();
  }

  scroller.addEventListener("pointermove", (event) => {
    const to = at(event);
    if (to?.r !== cursor?.r || to?.c !== cursor?.c) go(to);
    if (to) showTip(options.tip(to.r, to.c), event.clientX, event.clientY);
    else hideTip();
  });
  const leave = () => {
    hideTip();
    go(null);
  };
  scroller.addEventListener("pointerleave", leave);
  scroller.addEventListener("blur", leave);
  scroller.addEventListener("click", (event) => {
    const to = at(event);
    if (to) options.onPick?.(to.r, to.c);
  });
  scroller.addEventListener("scroll", () => {
    moved = true;
    redraw();
  });
  scroller.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && cursor) return options.onPick?.(cursor.r, cursor.c);
    const step = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      Home: [0, -cols],
      End: [0, cols],
    }[event.key];
    if (!step) return undefined;
    event.preventDefault();
    const from = cursor ?? { r: 0 - step[0], c: cols - 1 - step[1] };
    const to = {
      r: Math.max(0, Math.min(rows - 1, from.r + step[0])),
      c: Math.max(0, Math.min(cols - 1, from.c + step[1])),
    };
    reveal(to);
    go(to);
    live.replaceChildren(options.say(to.r, to.c));
    // After the scroll that reveals the cell, which would hide the tip.
    requestAnimationFrame(() =>
      requestAnimationFrame(() => {
        const bounds = scroller.getBoundingClientRect();
        showTip(
          options.tip(to.r, to.c),
          bounds.left + left + (to.c + 1) * cellWidth - scroller.scrollLeft,
          bounds.top + top + (to.r + 1) * cellHeight - scroller.scrollTop,
        );
      }),
    );
    return undefined;
  });

  function reveal({ r, c }) {
    const visibleWidth = width - left,
      visibleHeight = height - bottom - top;
    if (c * cellWidth < scroller.scrollLeft) scroller.scrollLeft = c * cellWidth;
    else if ((c + 1) * cellWidth > scroller.scrollLeft + visibleWidth)
      scroller.scrollLeft = (c + 1) * cellWidth - visibleWidth;
    if (r * cellHeight < scroller.scrollTop) scroller.scrollTop = r * cellHeight;
    else if ((r + 1) * cellHeight > scroller.scrollTop + visibleHeight)
      scroller.scrollTop = (r + 1) * cellHeight - visibleHeight;
  }

  const element = h("div", { class: "grid-box" }, scroller, live);
  new ResizeObserver(measure).observe(element);
  painted(draw);
  return { element, redraw, cellHeight: () => cellHeight };
}
