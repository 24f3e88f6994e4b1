// The AI SDK's chat without a page: takes commands as JSON lines, and answers each with a JSON line.
// Knows: npm `ai`, as an application would use it. Does not know: anything of Myna but its address.

import { createInterface } from 'node:readline';
import { AbstractChat, DefaultChatTransport, readUIMessageStream } from 'ai';

const [api, token, id] = process.argv.slice(2);

/** Notes the type of each part that passed the SDK's own validation. */
class Transport extends DefaultChatTransport {
  parts = [];

  constructor() {
    super({ api, headers: { authorization: `Bearer ${token}` } });
  }

  processResponseStream(stream) {
    this.parts = [];
    const note = new TransformStream({
      transform: (part, controller) => {
        this.parts.push(part);
        controller.enqueue(part);
      },
    });
    return super.processResponseStream(stream).pipeThrough(note);
  }
}

/** What `useChat` keeps in React's state. */
class State {
  status = 'ready';
  error = undefined;
  messages = [];

  constructor(changed) {
    this.changed = changed;
  }

  pushMessage = (message) => {
    this.messages = [...this.messages, message];
    this.changed();
  };

  popMessage = () => {
    this.messages = this.messages.slice(0, -1);
  };

  replaceMessage = (index, message) => {
    this.messages = this.messages.with(index, message);
    this.changed();
  };

  snapshot = (thing) => structuredClone(thing);
}

class Chat extends AbstractChat {
  constructor(name) {
    const transport = new Transport();
    const state = new State(() => this.#tellFirstText());
    super({ id, transport, state, onFinish: (how) => (this.finish = how) });
    this.name = name;
    this.own = { transport, state };
  }

  #tellFirstText() {
    const last = this.own.state.messages.at(-1);
    if (last?.role !== 'assistant' || this.told === last.id || !textOf(last)) return;
    this.told = last.id;
    print({ chat: this.name, event: 'text', streamId: last.id, text: textOf(last) });
  }

  report() {
    const { state, transport } = this.own;
    return {
      status: state.status,
      error: state.error?.message ?? null,
      messages: state.messages.map((one) => ({ id: one.id, role: one.role, text: textOf(one), metadata: one.metadata })),
      parts: transport.parts.map((part) => part.type),
      last: transport.parts.at(-1) ?? null,
      finishReason: this.finish?.finishReason ?? null,
    };
  }
}

function textOf(message) {
  return message.parts.filter((part) => part.type === 'text').map((part) => part.text).join('');
}

function print(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

const commands = {
  send: (chat, { text, messageId }) => chat.sendMessage({ text, messageId }),
  regenerate: (chat, { messageId }) => chat.regenerate({ messageId }),
  resume: (chat) => chat.resumeStream(),
  disconnect: (chat) => chat.stop(),
  read: async (chat) => {
    const stream = await chat.own.transport.reconnectToStream({ chatId: id });
    if (stream === null) return { read: null };
    const texts = [];
    for await (const message of readUIMessageStream({ stream, terminateOnError: true })) texts.push(textOf(message));
    return { read: texts };
  },
};

const chats = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const { chat: name, command, ...options } = JSON.parse(line);
  const chat = chats.get(name) ?? new Chat(name);
  chats.set(name, chat);
  commands[command](chat, options)
    .then((more) => print({ chat: name, done: command, ...chat.report(), ...more }))
    .catch((error) => print({ chat: name, done: command, failed: String(error?.stack ?? error) }));
}
