// The scene: x east, y up, z south. Light, shade and mist are reckoned where corners are, not where pixels are, and once for all that
// stands still: pixels then only take their colour, which a processor without graphics card can do, too. ------------------------------
/** Whether there is no graphics card: then edges are not smoothed, which would take most of the time. */
function drawnByProcessor() {
  const context = document.createElement("canvas").getContext("webgl2"), about = context?.getExtension("WEBGL_debug_renderer_info");
  const found = Boolean(about) && /swiftshader|llvmpipe|software/i.test(context.getParameter(about.UNMASKED_RENDERER_WEBGL));
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return found;
}
const canvas = $("view"), byProcessor = drawnByProcessor();
let renderer;
try {
  const antialias = !byProcessor && devicePixelRatio < 2, context = canvas.getContext("webgl2", { alpha: false, antialias, powerPreference: "high-performance" });
  renderer = new THREE.WebGLRenderer({ canvas, context });
} catch (error) {
  document.body.insertAdjacentHTML("beforeend", '<div class="panel" id="trouble">This browser shows no WebGL, which the race is drawn with. Turn on hardware acceleration, or open it in another browser.</div>');
  throw error;
}
const ZENITH = 0x86b1d7;
renderer.setClearColor(new THREE.Color(ZENITH));
const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(55, 1, 0.5, 9000);
scene.matrixWorldAutoUpdate = false;  // nothing but the camera has a place of its own

/** Red, green and blue as light adds, of a colour as it is written; and back, as bytes. */
const linear = (colour) => [16, 8, 0].map((bits) => (((colour >> bits) & 255) / 255) ** 2.2);
const bytes = (light) => light.map((v) => Math.round(255 * Math.min(Math.max(v, 0), 1) ** (1 / 2.2)));
const MIST = 0xd5e0e6, MIST_FROM = 350, MIST_TO = 3000;
const length3 = Math.hypot(-0.5, 0.8, 0.35), SUN = [-0.5 / length3, 0.8 / length3, 0.35 / length3];
const SUNLIGHT = linear(0xfff0d8).map((v) => 0.74 * v), ABOVE = linear(0xe4eef8).map((v) => 0.62 * v), BELOW = linear(0x6c7460).map((v) => 0.9 * v);
/** What a dull surface shows of its colour, as bytes. */
function lit(colour, [x, y, z], shade = 1) {
  const sun = Math.max(x * SUN[0] + y * SUN[1] + z * SUN[2], 0), up = 0.5 + 0.5 * y;
  return bytes(colour.map((v, c) => shade * v * (SUNLIGHT[c] * sun + BELOW[c] + (ABOVE[c] - BELOW[c]) * up)));
}
const vector = (values) => `vec3(${values.map((v) => v.toFixed(5)).join(", ")})`;
const MISTED = `
  const vec3 MIST = ${vector(linear(MIST).map((v) => v ** (1 / 2.2)))};
  vec3 misted(vec3 colour, float depth) { return mix(colour, MIST, clamp((depth - ${MIST_FROM}.0) / ${MIST_TO - MIST_FROM}.0, 0.0, 1.0)); }`;
const PLAIN = "precision mediump float; in vec3 tone; out vec4 pixel; void main() { pixel = vec4(tone, 1.0); }", FLAT = PLAIN.replace("in vec3", "flat in vec3");
const material = (vertexShader, fragmentShader = PLAIN, more = {}) => new THREE.RawShaderMaterial({ glslVersion: THREE.GLSL3, vertexShader, fragmentShader, ...more });
const STILL = `
  uniform mat4 projectionMatrix, viewMatrix; in vec3 position; in vec4 colour; out vec3 tone; ${MISTED}
  void main() { gl_Position = projectionMatrix * viewMatrix * vec4(position, 1.0); tone = misted(colour.rgb, gl_Position.w); }`;
const soft = material(STILL), still = material(STILL.replace("out vec3", "flat out vec3"), FLAT);  // colours that change over a face, or don't
/** What is drawn first: near things hide others, and what is hidden costs nothing. */
const ORDER = { cars: 0, track: 1, land: 3, plain: 4, sky: 5 };

/** A place on the track: point, metres to the left of its centre line, metres above. */
function place(point, offset, above = 0) {
  const i = ((point % points) + points) % points, h = track.heading[i];
  return [track.x[i] - offset * Math.sin(h), track.z[i] + offset * Math.tan(track.bank[i]) + above, -(track.y[i] + offset * Math.cos(h))];
}
const random = ((seed) => () => { seed = (seed * 1664525 + 1013904223) % 4294967296; return seed / 4294967296; })(7);

/** Which way a face with three corners or four looks, from which they go round counter-clockwise. */
function normalOf([a, b, c, d]) {
  const between = (p, q) => q.map((v, i) => v - p[i]), [u, v] = d ? [between(a, c), between(b, d)] : [between(a, b), between(a, c)];
  const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]], size = Math.hypot(...normal) || 1;
  return normal.map((w) => w / size);
}

/** Corners and colours that are gathered, to be drawn at once. */
class Sheet {
  corners = []; colours = []; faces = [];
  corner(place, colour) {
    this.corners.push(...place);
    this.colours.push(...colour, 255);
    return this.corners.length / 3 - 1;
  }
  /** A face with three corners or four, counter-clockwise as one looks at it; dull, of a colour as light adds. */
  face(places, colour, shade) {
    const shown = lit(colour, normalOf(places), shade), [p, q, r, s] = places.map((each) => this.corner(each, shown));
    this.faces.push(p, q, r);
    if (s !== undefined) this.faces.push(p, r, s);
  }
  draw(order, how = still) {
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.Float32BufferAttribute(this.corners, 3));
    geometry.setAttribute("colour", new THREE.BufferAttribute(new Uint8Array(this.colours), 4, true));
    geometry.setIndex(this.faces);
    geometry.computeBoundingSphere();
    const mesh = new THREE.Mesh(geometry, how);
    mesh.matrixAutoUpdate = false;
    mesh.renderOrder = order;
    scene.add(mesh);
    return mesh;
  }
}

const STRIPE = 4;  // of kerbs, m
/** Points that are drawn: one for each stripe of kerbs, elsewhere so many that bends stay round; from afar, fewer. */
function kept(bend, longest, kerbs) {
  const found = [0], stripe = (i) => Math.floor(i * race.track.step / STRIPE);
  for (let i = 1; i < points; i++) {
    const last = found[found.length - 1], turned = Math.abs(track.heading[i] - track.heading[last]) + Math.abs(track.slope[i] - track.slope[last]);
    if ((kerbs && stripe(i) > stripe(i - 1) && (track.kerb_left[i] > 0 || track.kerb_right[i] > 0)) || turned > bend || (i - last) * race.track.step > longest) found.push(i);
  }
  return [...found, points];
}

const tones = (object) => Object.fromEntries(Object.entries(object).map(([name, all]) => [name, all.map(linear)]));
const GROUND = tones({
  grass: [0x6f8f4e, 0x779858], sand: [0xcdbb93, 0xc6b389], kerb: [0xc8402f, 0xeeeae2], paint: [0xe9e6df], bank: [0x688848, 0x6c8c4b],
  asphalt: [0x4c4d51, 0x4e4f53, 0x4a4b4f], rubber: [0x3f4044], wall: [0xd9d6cf, 0xb4bfc8], far: [0xd97f72],
});
/** What lies across the track at a point, from right to left: where each strip ends, its colour, and metres above the road. */
function across(i, near) {
  const { left, right, kerb_left, kerb_right, gravel_left, gravel_right, wall_left, wall_right } = track;
  const along = i * race.track.step, stripe = (m, kind) => GROUND[kind][Math.floor(along / m) % GROUND[kind].length];
  const grass = stripe(24, "grass"), sand = stripe(12, "sand"), bank = stripe(24, "bank"), asphalt = GROUND.asphalt[Math.floor(i / 3) % 3], kerb = near ? stripe(STRIPE, "kerb") : GROUND.far[0];
  const edge = 0.2, clip = (v) => Math.min(Math.max(v, edge - right[i]), left[i] - edge), line = track.line[i];
  return [
    [-wall_right[i] - 16, null, -3.2],
    [-wall_right[i], bank, 0],
    [-Math.min(right[i] + gravel_right[i], wall_right[i]), sand, 0],
    [-Math.min(right[i] + kerb_right[i], wall_right[i]), grass, 0],
    [-right[i], kerb, 0],
    ...(near ? [[edge - right[i], GROUND.paint[0], 0], [clip(line - 0.9), asphalt, 0], [clip(line + 0.9), GROUND.rubber[0], 0], [left[i] - edge, asphalt, 0], [left[i], GROUND.paint[0], 0]] : [[left[i], GROUND.asphalt[0], 0]]),
    [Math.min(left[i] + kerb_left[i], wall_left[i]), kerb, 0],
    [Math.min(left[i] + gravel_left[i], wall_left[i]), grass, 0],
    [wall_left[i], sand, 0],
    [wall_left[i] + 16, bank, -3.2],
  ];
}

/** A piece of the track, with its walls, through the points between two of them. */
function trackPiece(through, first, last, near) {
  const sheet = new Sheet();
  for (let k = 0; k + 1 < through.length; k++) {
    const i = through[k], j = through[k + 1];
    if (i < first || i >= last) continue;
    const here = across(i, near), there = across(j % points, near);
    for (let strip = 1; strip < here.length; strip++) {
      const [a, b, c, d] = [here[strip - 1], here[strip], there[strip - 1], there[strip]];
      if (b[0] - a[0] < 1e-3 && d[0] - c[0] < 1e-3) continue;
      sheet.face([place(i, a[0], a[2]), place(j, c[0], c[2]), place(j, d[0], d[2]), place(i, b[0], b[2])], b[1]);
    }
    const board = GROUND.wall[Math.floor(i * race.track.step / 36) % 2];
    for (const [wall, side] of [[(n) => track.wall_left[n % points], 1], [(n) => -track.wall_right[n % points], -1]]) {
      const [p, q, r, t] = [[i, -0.1], [j, -0.1], [j, 1.1], [i, 1.1]].map(([n, above]) => place(n, wall(n), above));
      sheet.face(side > 0 ? [p, q, r, t] : [q, p, t, r], board, 1.3);
      sheet.face(side > 0 ? [q, p, t, r] : [p, q, r, t], board, 1.1);
    }
  }
  return sheet.draw(ORDER.track);
}
/** The track in pieces, so that what is not seen is not drawn, and what is far has fewer corners. */
const pieces = [];
function drawTrack() {
  const fine = kept(0.02, 15, true), coarse = kept(0.06, 30, false), many = 28;
  for (let piece = 0; piece < many; piece++) {
    const [first, last] = [piece, piece + 1].map((n) => coarse[Math.round(n * (coarse.length - 1) / many)]);
    if (!fine.includes(first)) { fine.push(first); fine.sort((a, b) => a - b); }
    if (last > first) pieces.push([first, last]);
  }
  pieces.forEach(([first, last], i) => (pieces[i] = { near: trackPiece(fine, first, last, true), far: trackPiece(coarse, first, last, false) }));
  startLine();
}

function startLine() {
  const squares = new Sheet(), size = 0.6, h = track.heading[0], steep = Math.tan(track.slope[0]);
  for (let column = 0; column < Math.floor((track.left[0] + track.right[0]) / size); column++) for (let row = 0; row < 3; row++) {
    const corners = [[0, 0], [0, 1], [1, 1], [1, 0]].map(([left, ahead]) => {
      const [x, y, z] = place(0, (column + left) * size - track.right[0]), far = (row + ahead) * size;
      return [x + far * Math.cos(h), y + far * steep + 0.005, z - far * Math.sin(h)];
    });
    squares.face(corners, linear((column + row) % 2 ? 0x1b1b1c : 0xe9e6df));
  }
  const over = new Sheet(), [right, left] = [-track.wall_right[0], track.wall_left[0]];
  const corner = (offset, ahead, above) => { const [x, y, z] = place(0, offset, above); return [x + ahead * Math.cos(h), y + ahead * steep, z - ahead * Math.sin(h)]; };
  const board = (from, to, low, high, ahead, colour) => over.face([[to, low], [from, low], [from, high], [to, high]].map(([offset, above]) => corner(offset, ahead, above)), linear(colour), 1.3);
  for (const [from, to, low] of [[right - 0.6, right, -1], [left, left + 0.6, -1], [right - 0.6, left + 0.6, 6]]) {
    const [p, q, r, s, t, u, v, w] = [0, 0.6].flatMap((ahead) => [[from, low], [to, low], [to, 7.2], [from, 7.2]].map(([offset, above]) => corner(offset, ahead, above)));
    for (const each of [[q, p, s, r], [t, u, v, w], [s, w, v, r], [p, q, u, t], [p, t, w, s], [u, q, r, v]]) over.face(each, linear(0x3a3d42));
  }
  const wide = (left - right) / 40;
  for (let i = 0; i < 40; i++) for (let row = 0; row < 2; row++) board(right + i * wide, right + (i + 1) * wide, 6.2 + 0.4 * row, 6.6 + 0.4 * row, -0.02, (i + row) % 2 ? 0x1b1b1c : 0xe9e6df);
  over.draw(ORDER.track);
  squares.draw(ORDER.track + 1, material(still.vertexShader, FLAT, { polygonOffset: true, polygonOffsetFactor: -4, polygonOffsetUnits: -16 }));
}

/** The land around and trees on it, in tiles; beyond it the plain, and the sky. */
function drawLand() {
  const { rows, columns, west, south, cell } = race.land, heights = numbers(race.land.heights), tile = 20;
  const high = (row, column) => heights[Math.min(Math.max(row, 0), rows - 1) * columns + Math.min(Math.max(column, 0), columns - 1)];
  const corner = (row, column) => [west + column * cell, high(row, column), -(south + row * cell)];
  const meadow = linear(0x66854a), tints = Array.from(heights, () => 0.9 + 0.2 * random());
  const colour = (row, column) => {
    const slope = [(high(row, column - 1) - high(row, column + 1)) / (2 * cell), 1, (high(row + 1, column) - high(row - 1, column)) / (2 * cell)], size = Math.hypot(...slope), tint = tints[row * columns + column];
    return lit([meadow[0] * tint, meadow[1] * (0.5 + 0.5 * tint), meadow[2] * tint], slope.map((v) => v / size));
  };
  const across = Math.ceil((columns - 1) / tile), tiles = Array.from({ length: across * Math.ceil((rows - 1) / tile) }, () => new Sheet()), woods = tiles.map(() => new Sheet());
  tiles.forEach((sheet, n) => {
    const top = Math.floor(n / across) * tile, side = (n % across) * tile, down = Math.min(tile, rows - 1 - top), wide = Math.min(tile, columns - 1 - side);
    for (let row = top; row <= top + down; row++) for (let column = side; column <= side + wide; column++) sheet.corner(corner(row, column), colour(row, column));
    for (let row = 0; row < down; row++) for (let column = 0; column < wide; column++) {
      const a = row * (wide + 1) + column, b = a + 1, c = a + wide + 1, d = c + 1;
      sheet.faces.push(a, b, d, a, d, c);
    }
  });
  for (const [x, y, z] of race.trees) {
    const column = Math.floor((x - west) / cell / tile), row = Math.floor((y - south) / cell / tile);
    const sheet = woods[Math.min(Math.max(row, 0), tiles.length / across - 1) * across + Math.min(Math.max(column, 0), across - 1)];
    tree(sheet, [x, z - 0.5, -y], 0.7 + 0.8 * random());
  }
  tiles.forEach((sheet) => sheet.draw(ORDER.land, soft));
  woods.forEach((sheet) => sheet.faces.length && sheet.draw(ORDER.track));
  plain(rows, columns, corner, lit(meadow, [0, 1, 0]));
}

/** A fir or a broad tree: cones one over another. */
function tree(sheet, [x, y, z], big) {
  const fir = random() < 0.6, warm = random() - 0.5, green = linear(fir ? 0x3d5f3a : 0x56753b).map((v, c) => v * (1 + 0.3 * (random() - 0.5)) * (c === 0 ? 1 + 0.5 * warm : 1));
  const cone = (low, high, wide, narrow, sides, colour) => {
    const spin = random() * 6, ring = (n, radius, at) => [x + big * radius * Math.cos(spin + n * 2 * Math.PI / sides), y + big * at, z - big * radius * Math.sin(spin + n * 2 * Math.PI / sides)];
    for (let n = 0; n < sides; n++) sheet.face([ring(n, wide, low), ring(n + 1, wide, low), ...(narrow ? [ring(n + 1, narrow, high), ring(n, narrow, high)] : [ring(n, 0, high)])], colour);
  };
  cone(0, 2, 0.4, 0.3, 3, linear(0x5a4632));
  if (fir) { cone(1.4, 6.2, 2.6, 0, 6, green); cone(4.2, 9.4, 1.9, 0, 6, green); }
  else { cone(1.6, 4.2, 1.4, 3, 6, green.map((v) => 0.8 * v)); cone(4.2, 7, 3, 0, 6, green); }
}

/** The plain beyond the land, hills at its end, and the sky, which goes along with the camera. */
function plain(rows, columns, corner, green) {
  const sheet = new Sheet(), rim = [];
  for (let c = 0; c < columns - 1; c += 6) rim.push(corner(0, c));
  for (let r = 0; r < rows - 1; r += 6) rim.push(corner(r, columns - 1));
  for (let c = columns - 1; c > 0; c -= 6) rim.push(corner(rows - 1, c));
  for (let r = rows - 1; r > 0; r -= 6) rim.push(corner(r, 0));
  const [x0, , z0] = corner(0, 0), [x1, , z1] = corner(rows - 1, columns - 1), middle = [(x0 + x1) / 2, (z0 + z1) / 2];
  const out = (p, far) => { const dx = p[0] - middle[0], dz = p[2] - middle[1], d = Math.hypot(dx, dz); return [p[0] + dx / d * far, p[1], p[2] + dz / d * far]; };
  const rings = [0, 1500, 5000].map((far) => rim.map((p) => sheet.corner(out(p, far), green)));
  for (let ring = 0; ring < 2; ring++) rim.forEach((_, i) => {
    const j = (i + 1) % rim.length, [a, b, c, d] = [rings[ring][i], rings[ring + 1][i], rings[ring + 1][j], rings[ring][j]];
    sheet.faces.push(a, b, c, a, c, d);
  });
  sheet.draw(ORDER.plain, soft);
  const sky = new Sheet(), parts = 32, levels = [[-5, MIST], [0, MIST], [4, 0xc9dbe7], [12, 0xa8c8e0], [24, ZENITH]];
  const round = levels.map(([degrees, colour]) => Array.from({ length: parts }, (_, n) => {
    const up = degrees * Math.PI / 180, turn = n * 2 * Math.PI / parts;
    return sky.corner([8000 * Math.cos(up) * Math.cos(turn), 8000 * Math.sin(up), 8000 * Math.cos(up) * Math.sin(turn)], bytes(linear(colour)));
  }));
  for (let level = 0; level + 1 < levels.length; level++) for (let n = 0; n < parts; n++) {
    const m = (n + 1) % parts, [a, b, c, d] = [round[level][n], round[level][m], round[level + 1][m], round[level + 1][n]];
    sky.faces.push(a, b, c, a, c, d);
  }
  const ridge = Array.from({ length: 96 }, (_, n) => [1, 2, 3, 5, 8, 13].reduce((sum, wave, k) => sum + Math.sin(wave * n * 2 * Math.PI / 96 + 2.1 * k * k) / (k + 1.5), 0));
  for (let n = 0; n < 96; n++) {
    const m = (n + 1) % 96, spot = (k, up) => [7000 * Math.cos(k * 2 * Math.PI / 96), up, 7000 * Math.sin(k * 2 * Math.PI / 96)], tall = (k) => 150 + 70 * ridge[k];
    const [a, b, c, d] = [[n, -60, MIST], [m, -60, MIST], [m, tall(m), 0xaec5d2], [n, tall(n), 0xaec5d2]].map(([k, up, colour]) => sky.corner(spot(k, up), bytes(linear(colour))));
    sky.faces.push(a, b, c, a, c, d);
  }
  const dome = sky.draw(ORDER.sky, material(`
    uniform mat4 projectionMatrix, viewMatrix; in vec3 position; in vec4 colour; out vec3 tone;
    void main() { vec4 spot = projectionMatrix * vec4(mat3(viewMatrix) * position, 1.0); gl_Position = spot.xyww; tone = colour.rgb; }`, PLAIN, { depthWrite: false }));
  dome.frustumCulled = false;
}

// Cars -----------------------------------------------------------------------------------------------------------------------------
/** A car's corners: place, normal, colour, how much of it is the car's own colour (2: a light that brakes light up), and the wheel they
 * belong to (its middle and radius; 0: none). */
class Shape {
  corners = []; faces = [];
  quad(places, colour, own, hub = [0, 0, 0, 0]) {
    const normal = normalOf(places), first = this.corners.length;
    for (const each of places) this.corners.push([...each, ...normal, ...colour, own, ...hub]);
    this.faces.push(first, first + 1, first + 2, ...(places[3] ? [first, first + 2, first + 3] : []));
  }
  /** A hull through sections [x, heights of sill, shoulder and roof, half widths there], from rear to front; `skin(section, strip)` is
   * [colour, own] of strips: sides below and above the shoulder (0, 1), top (2), ends (3). */
  hull(sections, skin) {
    const ring = ([x, low, mid, top, w0, w1, w2]) => [[x, low, w0], [x, mid, w1], [x, top, w2], [x, top, -w2], [x, mid, -w1], [x, low, -w0]];
    const rings = sections.map(ring);
    for (let s = 0; s + 1 < rings.length; s++) for (let e = 0; e < 5; e++) this.quad([rings[s][e], rings[s + 1][e], rings[s + 1][e + 1], rings[s][e + 1]], ...skin(s, [0, 1, 2, 1, 0][e]));
    const [rear, front] = [rings[0], rings[rings.length - 1]];
    for (const [a, b] of [[0, 5], [1, 4]]) {
      this.quad([rear[b], rear[a], rear[a + 1], rear[b - 1]], ...skin(0, 3));
      this.quad([front[a], front[b], front[b - 1], front[a + 1]], ...skin(rings.length - 2, 3));
    }
  }
  /** A solid between two rectangles across the car: [x, half width, bottom, top] of its rear and of its front, mirrored or shifted aside. */
  solid([x0, w0, l0, h0], [x1, w1, l1, h1], colour, own, aside = [0]) {
    for (const z of aside) {
      const [a, b, c, d] = [[x0, l0, z + w0], [x0, l0, z - w0], [x0, h0, z - w0], [x0, h0, z + w0]], [e, f, g, h] = [[x1, l1, z + w1], [x1, l1, z - w1], [x1, h1, z - w1], [x1, h1, z + w1]];
      for (const each of [[b, a, d, c], [e, f, g, h], [a, e, h, d], [f, b, c, g], [d, h, g, c]]) this.quad(each, colour, own);
    }
  }
  wheel([ahead, left, radius, wide], sides, open) {
    const hub = [ahead, radius, -left, radius], out = left > 0 ? -1 : 1, z = out * wide / 2, tyre = linear(0x222224), turn = 2 * Math.PI / sides;
    const ring = (n, r, z) => [r * radius * Math.cos(n * turn), r * radius * Math.sin(n * turn), z], round = (list) => (out > 0 ? list : list.reverse());
    for (let n = 0; n < sides; n++) {
      this.quad(round([ring(n, 1, z), ring(n, 1, -z), ring(n + 1, 1, -z), ring(n + 1, 1, z)]), tyre, 0, hub);
      this.quad(round([ring(n, 0.66, z), ring(n, 1, z), ring(n + 1, 1, z), ring(n + 1, 0.66, z)]), tyre, 0, hub);
      this.quad(round([[0, 0, z * 0.9], ring(n, 0.66, z), ring(n + 1, 0.66, z)]), linear(n % 2 ? 0x2c2d2f : 0xa4a8ac), 0, hub);
      if (open) this.quad(round([[0, 0, -z], ring(n + 1, 1, -z), ring(n, 1, -z)]), tyre, 0, hub);
    }
  }
  /** The dark round above a wheel, on the side of a closed car. */
  arch([ahead, left, radius], half) {
    const z = left > 0 ? -half : half, spot = (n) => [ahead + 1.17 * radius * Math.cos(n * Math.PI / 6), radius + 1.17 * radius * Math.sin(n * Math.PI / 6), z];
    for (let n = -1; n < 7; n++) { const each = [[ahead, radius, z], spot(n), spot(n + 1)]; this.quad(left > 0 ? each.reverse() : each, linear(0x141415), 0); }
  }
}
const BODY = [[1, 1, 1], 1], DARK = [linear(0x1d1e20), 0], GLASS = [linear(0x27313a), 0], LAMP = [linear(0xf4f1e4), 0], BRAKE = [[1, 0.08, 0.05], 2];
function carShape({ length, width, open_wheels, wheels }, near) {
  const l = length / 2, w = width / 2, shape = new Shape(), both = (z) => [z, -z];
  if (open_wheels) {
    shape.hull([[-l * 0.86, 0.16, 0.3, 0.4, 0.2, 0.24, 0.12], [-l * 0.4, 0.1, 0.36, 0.66, 0.36, 0.4, 0.2], [l * 0.06, 0.1, 0.4, 0.64, 0.38, 0.4, 0.3], [l * 0.4, 0.12, 0.4, 0.58, 0.3, 0.31, 0.22], [l * 0.8, 0.16, 0.32, 0.42, 0.18, 0.2, 0.14], [l * 0.97, 0.18, 0.26, 0.32, 0.12, 0.13, 0.09]], () => BODY);
    shape.hull([[-l * 0.62, 0.1, 0.26, 0.34, w * 0.52, w * 0.56, w * 0.4], [-l * 0.3, 0.1, 0.34, 0.5, w * 0.72, w * 0.76, w * 0.6], [l * 0.02, 0.12, 0.36, 0.54, w * 0.74, w * 0.78, w * 0.66]], (_, strip) => (strip === 3 ? DARK : BODY));
    shape.hull([[-l * 0.74, 0.4, 0.46, 0.52, 0.12, 0.12, 0.06], [-l * 0.16, 0.6, 0.8, 0.96, 0.22, 0.2, 0.12]], (_, strip) => (strip === 3 ? DARK : BODY));
    shape.solid([-l * 0.14, 0.25, 0.6, 0.66], [l * 0.2, 0.2, 0.58, 0.655], ...DARK);
    shape.hull([[-l * 0.08, 0.6, 0.72, 0.84, 0.12, 0.15, 0.08], [l * 0.02, 0.6, 0.72, 0.82, 0.12, 0.15, 0.08]], () => [linear(0xf0ede4), 0]);
    shape.solid([-l * 0.75, w * 0.7, 0.06, 0.12], [l * 0.3, w * 0.6, 0.06, 0.12], ...DARK);
    shape.solid([l * 0.84, w * 0.95, 0.1, 0.17], [l, w * 0.92, 0.08, 0.12], ...BODY);
    shape.solid([-l, w * 0.54, 0.76, 0.92], [-l * 0.86, w * 0.54, 0.76, 0.84], ...BODY);
    if (near) {
      shape.solid([l * 0.82, 0.02, 0.08, 0.34], [l, 0.02, 0.08, 0.26], ...DARK, both(w * 0.94));
      shape.solid([-l, 0.02, 0.4, 0.96], [-l * 0.84, 0.02, 0.4, 0.9], ...DARK, both(w * 0.55));
      shape.solid([-l * 0.98, 0.07, 0.28, 0.36], [-l * 0.86, 0.07, 0.28, 0.36], ...BRAKE);
      for (const [ahead, left, radius] of wheels) for (const back of [-0.3, 0.16]) shape.solid([ahead * 0.86 + back, Math.abs(left) / 2, radius + 0.02, radius + 0.05], [ahead * 0.86 + back + 0.08, Math.abs(left) / 2, radius + 0.02, radius + 0.05], ...DARK, [-left / 2]);
    }
  } else {
    const body = [[-l, 0.3, 0.64, 0.86, w * 0.82, w * 0.92, w * 0.8], [-l * 0.82, 0.16, 0.62, 0.9, w * 0.95, w * 0.98, w * 0.86], [-l * 0.3, 0.14, 0.58, 0.86, w * 0.95, w * 0.97, w * 0.84], [l * 0.1, 0.14, 0.54, 0.82, w * 0.93, w * 0.95, w * 0.84], [l * 0.56, 0.14, 0.54, 0.74, w * 0.95, w * 0.98, w * 0.8], [l * 0.86, 0.14, 0.44, 0.6, w * 0.93, w * 0.96, w * 0.74], [l, 0.18, 0.36, 0.46, w * 0.8, w * 0.84, w * 0.64]];
    shape.hull(body, () => BODY);
    shape.hull([[-l * 0.8, 0.8, 0.86, 0.9, w * 0.72, w * 0.7, w * 0.64], [-l * 0.34, 0.8, 0.9, 1.22, w * 0.8, w * 0.78, w * 0.58], [l * 0.04, 0.78, 0.88, 1.22, w * 0.8, w * 0.78, w * 0.58], [l * 0.46, 0.68, 0.74, 0.78, w * 0.76, w * 0.74, w * 0.66]], (section, strip) => (strip === 2 && section === 1 ? BODY : GLASS));
    shape.solid([-l * 1.0, w * 0.9, 1.16, 1.24], [-l * 0.86, w * 0.9, 1.18, 1.22], ...DARK);
    shape.solid([l * 0.88, w * 0.94, 0.08, 0.15], [l * 1.03, w * 0.84, 0.08, 0.12], ...DARK);
    if (near) {
      shape.solid([-l * 0.94, 0.03, 0.8, 1.18], [-l * 0.9, 0.03, 0.8, 1.18], ...DARK, both(w * 0.45));
      shape.solid([-l * 1.02, 0.02, 1.06, 1.28], [-l * 0.84, 0.02, 1.1, 1.28], ...DARK, both(w * 0.9));
      shape.solid([-l * 0.985, w * 0.86, 0.14, 0.36], [-l * 0.8, w * 0.86, 0.12, 0.3], ...DARK);
      shape.solid([-l * 1.004, w * 0.16, 0.66, 0.76], [-l * 0.96, w * 0.16, 0.66, 0.76], ...BRAKE, both(w * 0.64));
      shape.solid([l * 0.86, 0.13, 0.44, 0.5], [l * 0.97, 0.1, 0.4, 0.46], ...LAMP, both(w * 0.66));
      shape.solid([l * 0.9, w * 0.5, 0.2, 0.32], [l * 1.004, w * 0.5, 0.2, 0.32], ...DARK);
      shape.solid([l * 0.2, 0.09, 0.84, 0.96], [l * 0.26, 0.07, 0.86, 0.95], ...BODY, both(w * 0.94));
      for (const wheel of wheels) shape.arch(wheel, w * 0.985);
    }
  }
  for (const wheel of wheels) shape.wheel(wheel, near ? 12 : 6, open_wheels);
  return shape;
}

const STATED = [["spot", 3], ["lie", 3], ["roll", 4], ["tint", 3]];  // place; heading, slope, bank; steering, turns of wheels, brake; colour
const FLOATS = STATED.reduce((sum, [, size]) => sum + size, 0);
const TURNED = `
  in vec3 spot, lie;
  mat3 about(int axis, float angle) {
    float c = cos(angle), s = sin(angle);
    return axis == 0 ? mat3(1, 0, 0, 0, c, s, 0, -s, c) : axis == 1 ? mat3(c, 0, -s, 0, 1, 0, s, 0, c) : mat3(c, s, 0, -s, c, 0, 0, 0, 1);
  }
  mat3 turned() { return about(1, lie.x) * about(2, lie.y) * about(0, lie.z); }`;
const painted = material(`
  uniform mat4 projectionMatrix, viewMatrix; in vec3 position, normal, tint; in vec4 colour, hub, roll; flat out vec3 tone; ${MISTED} ${TURNED}
  void main() {
    vec3 p = position, n = normal;
    if (hub.w > 0.0) {
      mat3 spin = about(2, -(hub.x > 0.0 ? roll.y : roll.z));
      if (hub.x > 0.0) spin = about(1, roll.x) * spin;
      p = spin * p + hub.xyz;
      n = spin * n;
    }
    mat3 turn = turned();
    vec4 seen = viewMatrix * vec4(turn * p + spot, 1.0);
    n = turn * n;
    vec3 light = ${vector(SUNLIGHT)} * max(dot(n, ${vector(SUN)}), 0.0) + mix(${vector(BELOW)}, ${vector(ABOVE)}, 0.5 + 0.5 * n.y);
    vec3 own = colour.rgb * (colour.a > 0.5 && colour.a < 1.5 ? tint : vec3(1.0));
    vec3 bright = colour.a > 1.5 ? own * mix(0.25, 1.0, roll.w) : own * light;
    if (hub.w == 0.0) bright += 0.05 * smoothstep(0.2, 1.0, n.y);  // the sky, in paint and glass
    gl_Position = projectionMatrix * seen;
    tone = misted(pow(bright, vec3(1.0 / 2.2)), gl_Position.w);
  }`, FLAT);
const shaded = material(`
  uniform mat4 projectionMatrix, viewMatrix; in vec3 position; in float dark; out float tone; ${TURNED}
  void main() { gl_Position = projectionMatrix * viewMatrix * vec4(turned() * position + spot, 1.0); tone = dark; }`,
  "precision mediump float; in float tone; out vec4 pixel; void main() { pixel = vec4(0.0, 0.0, 0.0, tone); }",
  { transparent: true, depthWrite: false, polygonOffset: true, polygonOffsetFactor: -2, polygonOffsetUnits: -8 });

/** Cars that are drawn at once: a geometry, and where each is. */
class Fleet {
  constructor(geometry, how) {
    this.states = new THREE.InstancedInterleavedBuffer(new Float32Array(count * FLOATS), FLOATS).setUsage(THREE.DynamicDrawUsage);
    let first = 0;
    for (const [name, size] of STATED) { geometry.setAttribute(name, new THREE.InterleavedBufferAttribute(this.states, size, first)); first += size; }
    this.mesh = new THREE.Mesh(geometry, how);
    this.mesh.frustumCulled = this.mesh.matrixAutoUpdate = false;
    scene.add(this.mesh);
    this.size = 0;
  }
  add(values) { this.states.array.set(values, FLOATS * this.size++); }
  close() {
    this.mesh.geometry.instanceCount = this.size;
    this.mesh.visible = this.size > 0;
    this.states.clearUpdateRanges();
    this.states.addUpdateRange(0, this.size * FLOATS);
    this.states.needsUpdate = true;
    this.size = 0;
  }
}
function carFleet(near) {
  const { corners, faces } = carShape(race.shape, near), geometry = new THREE.InstancedBufferGeometry();
  let first = 0;
  for (const [name, size] of [["position", 3], ["normal", 3], ["colour", 4], ["hub", 4]]) {
    geometry.setAttribute(name, new THREE.Float32BufferAttribute(corners.flatMap((each) => each.slice(first, first + size)), size));
    first += size;
  }
  return new Fleet(geometry.setIndex(faces), painted);
}
/** The soft shade below a car: dark in the middle, nothing at its edge. */
function shadeFleet() {
  const l = race.shape.length / 2, w = race.shape.width / 2, geometry = new THREE.InstancedBufferGeometry(), corners = [], faces = [];
  for (const [x, z] of [[l * 0.86, w * 0.8], [l * 1.12, w * 1.35]]) corners.push([x, 0.02, z], [x, 0.02, -z], [-x, 0.02, -z], [-x, 0.02, z]);
  const moved = corners.map(([x, y, z]) => [x, y, z]);
  faces.push(0, 1, 2, 0, 2, 3);
  for (let n = 0; n < 4; n++) { const m = (n + 1) % 4; faces.push(n, 4 + n, 4 + m, n, 4 + m, m); }
  geometry.setAttribute("position", new THREE.Float32BufferAttribute(moved.flat(), 3));
  geometry.setAttribute("dark", new THREE.Float32BufferAttribute([0.55, 0.55, 0.55, 0.55, 0, 0, 0, 0], 1));
  return new Fleet(geometry.setIndex(faces), shaded);
}
const nearFleet = carFleet(true), farFleet = carFleet(false), shades = shadeFleet(), fleets = [nearFleet, farFleet, shades];
const tints = race.cars.map((car) => linear(parseInt(car.colour.slice(1), 16)));
const inView = new THREE.Frustum(), looksAt = new THREE.Matrix4(), ball = new THREE.Sphere(new THREE.Vector3(), race.shape.length), values = new Float32Array(FLOATS);
const radii = [race.shape.wheels[0][2], race.shape.wheels[2][2]];
/** Puts cars that are seen where they are, with all details where they are big enough for them; and so with pieces of the track. */
function arrange(states) {
  const zoom = 1 / Math.tan(camera.fov * Math.PI / 360);
  inView.setFromProjectionMatrix(looksAt.multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse));
  for (let i = 0; i < count; i++) {
    const s = states[i];
    if (s.hidden) continue;
    ball.center.set(s.x, s.z, -s.y);
    if (!inView.intersectsSphere(ball)) continue;
    values[0] = s.x; values[1] = s.z; values[2] = -s.y;
    values[3] = s.heading; values[4] = s.slope; values[5] = s.bank;
    values[6] = s.steering; values[7] = (s.travelled / radii[0]) % (2 * Math.PI); values[8] = (s.travelled / radii[1]) % (2 * Math.PI);
    values[9] = Math.min(Math.max(-4 * s.pedal, 0), 1);
    values.set(tints[i], 10);
    (s.fleet ?? (camera.position.distanceTo(ball.center) < 70 * zoom / 1.8 ? nearFleet : farFleet)).add(values);
    if (!s.fleet) shades.add(values);
  }
  for (const fleet of fleets) fleet.close();
  for (const { near, far } of pieces) {
    const round = near.geometry.boundingSphere;
    const away = camera.position.distanceTo(round.center) - round.radius;
    near.visible = away < 190 * zoom / 1.8;
    far.visible = !near.visible;
    near.renderOrder = far.renderOrder = ORDER.track + Math.min(Math.max(away, 0) * 1e-4, 0.9);
  }
}

// Cameras --------------------------------------------------------------------------------------------------------------------------
let followed = 0, seen = "chase", fresh = true;
const eye = new THREE.Vector3(), ahead = new THREE.Vector3(), here = new THREE.Vector3(), goal = new THREE.Vector3(), aim = new THREE.Vector3(), looked = new THREE.Vector3();
const masts = [];
for (let s = 0; s < race.track.length; s += 260) {
  const i = Math.round(s / race.track.step) % points, outside = track.curvature[i] > 0 ? -track.wall_right[i] - 7 : track.wall_left[i] + 7;
  masts.push(new THREE.Vector3(...place(i, outside, 6.5)));
}
function look(s, seconds) {
  ahead.set(Math.cos(s.heading), 0, -Math.sin(s.heading));
  here.set(s.x, s.z, -s.y);
  const soft = (rate) => (fresh ? 1 : 1 - Math.exp(-rate * seconds));
  camera.up.set(0, 1, 0);
  let field = 55;
  if (seen === "chase") {
    goal.copy(here).addScaledVector(ahead, -8.5).setY(here.y + 2.9);
    aim.copy(here).addScaledVector(ahead, 7).setY(here.y + 0.9);
    eye.lerp(goal, soft(9));
    eye.sub(here).setLength(Math.min(Math.max(eye.length(), 7), 12)).add(here);
    looked.lerp(aim, soft(12));
    field = 58 + 10 * Math.min(s.speed / 90, 1);
  } else if (seen === "tv") {
    const nearest = masts.reduce((best, mast) => (mast.distanceToSquared(here) < best.distanceToSquared(here) ? mast : best));
    eye.copy(nearest);
    aim.copy(here).setY(here.y + 0.6);
    looked.lerp(aim, soft(14));
    field = Math.min(Math.max(2 * Math.atan(11 / eye.distanceTo(here)) * 57.3, 8), 60);
  } else {
    eye.set(here.x, here.y + 120, here.z + 0.01);
    looked.copy(here);
    camera.up.set(0, 0, -1);
    field = 50;
  }
  fresh = false;
  camera.position.copy(eye);
  if (Math.abs(camera.fov - field) > 0.05) { camera.fov = field; camera.updateProjectionMatrix(); }
  camera.lookAt(looked);
  camera.updateMatrixWorld();
}

// Sharpness -------------------------------------------------------------------------------------------------------------------------------
const finest = Math.min(devicePixelRatio, 2), STEPS = [1, 0.85, 0.72, 0.6, 0.5, 0.42], measured = new Float32Array(20);
let level = byProcessor ? 2 : 0, many = 0, sharpness = finest, from = -1, slow = 0, lowered = 0, raised = 0, patience = 4000, hopeless = 0;
/** Fewer pixels where the machine can't keep up, more again where it can: motion is seen before edges are. More that were too many are tried
 * again later and later; where a graphics card gains nothing by half of them, as on a slow screen, there are soon as many as before. */
function adapt(seconds, now) {
  measured[many++] = seconds;
  if (many < measured.length) return;
  many = 0;
  const usual = measured.sort()[measured.length >> 1], was = level;
  if (usual > 1 / 54 && now > hopeless) {
    if (from >= 0 && level >= from + 2) {
      if (!byProcessor && usual > 0.93 * slow) { level = from; hopeless = now + 60000; }
      from = -1;
    }
    if (now > hopeless && level < STEPS.length - 1) {
      if (now - raised < 3000) patience = Math.min(2 * patience, 60000);
      if (from < 0) { from = level; slow = usual; }
      level++;
      lowered = now;
    }
  } else if (usual < 1 / 57) {
    from = -1;
    if (level > 0 && now - Math.max(lowered, raised) > patience) { level--; raised = now; }
  }
  if (level !== was) fit();
}
function fit() {
  const width = innerWidth, height = innerHeight;
  sharpness = finest * STEPS[level];
  renderer.setPixelRatio(sharpness);
  renderer.setSize(width, height, false);
  camera.aspect = width / height;
  camera.updateProjectionMatrix();
}

// Beside the picture ----------------------------------------------------------------------------------------------------------------------
/** Writes what changed. */
function write(element, text) { if (element.textContent !== text) element.textContent = text; }
/** A canvas's pen, and whether the canvas has a new size, which empties it. */
function sized(canvas) {
  const ratio = Math.min(window.devicePixelRatio, 2), width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  const anew = canvas.width !== width || canvas.height !== height, pen = canvas.getContext("2d");
  if (anew) { canvas.width = width; canvas.height = height; }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return [pen, anew];
}
const bounds = { west: Math.min(...track.x), east: Math.max(...track.x), south: Math.min(...track.y), north: Math.max(...track.y) };
let outline = null;
function drawMap() {
  const sheet = $("map").firstElementChild;
  if (!sheet.clientWidth) return;
  const [pen, anew] = sized(sheet), w = sheet.clientWidth - 14, h = sheet.clientHeight - 14;
  const zoom = Math.min(w / (bounds.east - bounds.west), h / (bounds.north - bounds.south));
  const px = (x) => 7 + w / 2 + (x - (bounds.east + bounds.west) / 2) * zoom, py = (y) => 7 + h / 2 - (y - (bounds.north + bounds.south) / 2) * zoom;
  if (anew || !outline) {
    outline = new Path2D();
    for (let i = 0; i < points; i += 3) outline.lineTo(px(track.x[i]), py(track.y[i]));
    outline.closePath();
  }
  pen.clearRect(0, 0, sheet.clientWidth, sheet.clientHeight);
  pen.strokeStyle = "#b4ac9f";
  pen.lineWidth = 2;
  pen.stroke(outline);
  for (let n = 0; n < count; n++) {
    const i = n === count - 1 ? followed : n >= followed ? n + 1 : n, s = states[i];  // the followed one over all others
    if (s.hidden) continue;
    pen.fillStyle = race.cars[i].colour;
    pen.beginPath();
    pen.arc(px(s.x), py(s.y), (i === followed ? 5 : 3.2) * (w < 100 ? 0.8 : 1), 0, 7);
    pen.fill();
    if (i === followed) { pen.strokeStyle = "#fff"; pen.lineWidth = 1.5; pen.stroke(); }
  }
}
