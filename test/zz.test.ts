import sharp from 'sharp';
import * as f from './fixtures.js';
it('x', async () => {
  const log = (...a: unknown[]) => process.stdout.write(a.map((x) => JSON.stringify(x)).join(' ') + '\n');
  for (const [n, make] of Object.entries({ photo: () => f.makePhotograph(), webp: () => f.makeWebp({ width: 100, height: 50 }), heic: f.makeHeic, avif: () => f.makeAvif({width:300,height:200}), tr: f.makeTruncatedJpeg, bomb: async () => f.makePngBomb(), hungry: f.makeHungryPng, slow: f.makeSlowPng })) {
    const t = performance.now();
    const b = await make();
    const ms = performance.now() - t;
    try {
      const m = await sharp(b, { limitInputPixels: false }).metadata();
      log(n, b.length, ms | 0, m.width, m.height, m.orientation, m.exif?.length, m.iptc?.length, m.xmp?.length);
    } catch (e) { log(n, b.length, ms | 0, String(e)); }
  }
}, 60000);
