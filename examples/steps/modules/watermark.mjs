// A step for STEPS_DIR: puts a watermark on images. It needs the package sharp, which Node looks for from this folder upwards.
import { join } from 'node:path';
import sharp from 'sharp';

const WIDTH = 1600;

export default {
  name: 'watermark',
  types: ['image/jpeg', 'image/png', 'image/webp', 'image/avif', 'image/tiff'],
  timeoutSeconds: 120,
  memory: '1GiB',
  // The worker's variables that this step gets.
  passVariables: [],

  async run(file, tools) {
    const image = sharp(tools.input).rotate().resize({ width: WIDTH, withoutEnlargement: true });
    const { data, info } = await image.toBuffer({ resolveWithObject: true });
    tools.progress(0.5);
    const text = `© ${new Date().getFullYear()} Example`;
    const size = Math.max(8, Math.round(info.width / 30));
    const mark = Buffer.from(
      `<svg xmlns="http://www.w3.org/2000/svg" width="${info.width}" height="${info.height}">
         <text x="98%" y="97%" text-anchor="end" font-family="sans-serif" font-size="${size}"
               fill="white" fill-opacity="0.7" stroke="black" stroke-opacity="0.3">${text}</text>
       </svg>`,
    );
    // Each file in this folder becomes a derived file: this one is watermark-image.
    await sharp(data)
      .composite([{ input: mark }])
      .webp({ quality: 80 })
      .toFile(join(tools.output, 'image.webp'));
    tools.log(`${file.filename} has a watermark`);
    // metadata.watermark of the file.
    return { facts: { text, width: info.width, height: info.height } };
  },
};
