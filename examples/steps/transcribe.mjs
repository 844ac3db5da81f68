// The program of a step for STEPS_FILE: node transcribe.mjs INPUT OUTPUT
//
// A stand-in for a program such as whisper.cpp. It reads how long a WAV file is, and writes captions that only say where
// they are. Facts go to stdout as one JSON object, captions into the folder OUTPUT.
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

const [, , input, output] = process.argv;

/** Seconds of a WAV file, from its header. */
async function durationOf(path) {
  const file = await open(path);
  const header = Buffer.alloc(44);
  await file.read(header, 0, 44, 0);
  const { size } = await file.stat();
  await file.close();
  if (header.toString('latin1', 0, 4) !== 'RIFF' || header.toString('latin1', 8, 12) !== 'WAVE') {
    throw new Error('This is no WAV file');
  }
  return (size - 44) / header.readUInt32LE(28);
}

const time = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 23);

try {
  const seconds = await durationOf(input);
  const cues = Array.from({ length: Math.ceil(seconds) }, (_, at) => {
    return `${time(at)} --> ${time(Math.min(at + 1, seconds))}\nSecond ${at + 1} of ${process.env.LANDFALL_FILENAME}\n`;
  });
  await writeFile(join(output, 'captions.vtt'), `WEBVTT\n\n${cues.join('\n')}`);
  console.log(JSON.stringify({ language: process.env.TRANSCRIBE_LANGUAGE, seconds, cues: cues.length }));
} catch (error) {
  // The last line of stderr is shown to the owner of the file. Exit code 75 would ask for another attempt later.
  console.error(error.message);
  process.exitCode = 1;
}
