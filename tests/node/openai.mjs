// npm `openai`, as an application would use it: prints what it got as one JSON line.
// Knows: the client's own interface. Does not know: anything of Myna but its address.

import OpenAI from 'openai';

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: 'user', content: 'What is the capital of France?' }];

const whole = await client.chat.completions.create({ model, messages, max_tokens: 12, temperature: 0, seed: 1 });
const stream = await client.chat.completions.create({
  model, messages, max_tokens: 12, temperature: 0, seed: 1, stream: true, stream_options: { include_usage: true },
});
let streamed = '';
let usage = null;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
const schema = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 20 }, large: { type: 'boolean' } },
  required: ['city', 'large'],
  additionalProperties: false,
};
const formed = await client.chat.completions.create({
  model, messages, max_tokens: 60, temperature: 0,
  response_format: { type: 'json_schema', json_schema: { name: 'city', schema, strict: true } },
});
const models = [];
for await (const one of client.models.list()) models.push(one.id);
let refusal = null;
try {
  await client.chat.completions.create({ model: 'gpt-9', messages });
} catch (error) {
  refusal = { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
}
const text = whole.choices[0].message.content;
console.log(JSON.stringify({
  text, streamed, usage, models, refusal, city: JSON.parse(formed.choices[0].message.content),
}));
