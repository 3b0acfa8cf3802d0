"""Write a Llama of random weights into a folder: python tiny_llama.py FOLDER. It says words without end or meaning."""

import sys

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SYLLABLES = ("ba", "di", "go", "lu", "me", "na", "po", "ri", "su", "te", "vo", "za")
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def main(folder):
    words = ["unknown", *(one + other for one in SYLLABLES for other in SYLLABLES)]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="unknown"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="unknown", pad_token="unknown")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=None,  # so that an answer is as long as it may be
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, pad_token_id=0, max_new_tokens=32)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
