// Strokes as pixels, computed here and not read from the canvas: browsers that resist fingerprinting
// (Tor, LibreWolf) let a page read only noise from a canvas.

// Grey pixels, row by row: 0 is paper, 255 is ink. The pen is a disc; `diameter` is in pixels.
function toPixels(strokes, width, height, diameter) {
  const pixels = new Uint8Array(width * height);
  const radius = diameter / 2;

  function stamp(x, y) {
    const last = Math.min(height - 1, y + radius);
    for (let row = Math.max(0, Math.ceil(y - radius)); row <= last; row += 1) {
      const half = Math.sqrt(radius ** 2 - (row - y) ** 2);
      const [start, end] = [x - half, x + half].map(
        (column) => row * width + Math.min(Math.max(Math.round(column), 0), width));
      pixels.fill(255, start, end);
    }
  }

  for (const stroke of strokes) {
    let from = stroke[0];
    for (const to of stroke) {
      const [dx, dy] = [to.x - from.x, to.y - from.y];
      const steps = Math.ceil(Math.hypot(dx, dy) / 4) || 1; // the edge differs by 0.1 pixels
      for (let step = 1; step <= steps; step += 1) {
        stamp(from.x + (dx * step) / steps, from.y + (dy * step) / steps);
      }
      from = to;
    }
  }
  return pixels;
}

// An uncompressed TIFF: the simplest format of grey pixels that the server reads.
export function toTiff(strokes, width, height, diameter) {
  const pixels = toPixels(strokes, width, height, diameter);
  const tags = [
    [256, width],
    [257, height],
    [258, 8], // bits for each pixel
    [259, 1], // no compression
    [262, 0], // 0 is white
    [273, 0], // where the pixels start: set below
    [278, height], // rows in the first and only strip
    [279, pixels.length],
  ];
  const header = new DataView(new ArrayBuffer(8 + 2 + 12 * tags.length + 4));
  tags[5][1] = header.byteLength;
  header.setUint32(0, 0x4d4d002a); // big-endian, as DataView writes
  header.setUint32(4, 8); // where the tags start
  header.setUint16(8, tags.length);
  tags.forEach(([tag, value], index) => {
    const start = 10 + 12 * index;
    header.setUint16(start, tag);
    header.setUint16(start + 2, 4); // a number of 32 bits,
    header.setUint32(start + 4, 1); // one
    header.setUint32(start + 8, value);
  });
  return new Blob([header, pixels], { type: "image/tiff" });
}
